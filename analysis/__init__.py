"""What update rules are worth: tuned baselines, fair comparison, honest intervals, plots."""

from learned_opt.analysis.comparison.compare import compare
from learned_opt.analysis.comparison.config import CompareConfig
from learned_opt.analysis.comparison.method import InContextMethod, Method
from learned_opt.analysis.comparison.tuning import BASELINES
from learned_opt.analysis.reporting.curves import plot_curves
from learned_opt.analysis.reporting.summary import summary_table
from learned_opt.analysis.reporting.table import render_table
from learned_opt.analysis.results import Results, load_results
from learned_opt.analysis.tidy import to_csv, to_pandas

__all__ = [
    "BASELINES",
    "CompareConfig",
    "InContextMethod",
    "Method",
    "Results",
    "compare",
    "load_results",
    "plot_curves",
    "render_table",
    "summary_table",
    "to_csv",
    "to_pandas",
]
