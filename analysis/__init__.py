"""What update rules are worth: tuned baselines, fair comparison, honest intervals, plots."""

from analysis.config import CompareConfig
from analysis.contender import Contender
from analysis.evaluate import compare
from analysis.merge import merge_results
from analysis.plots import plot_curves
from analysis.report import render_table, summary_table
from analysis.results import Results, load_results
from analysis.tune import BASELINES

__all__ = [
    "BASELINES",
    "CompareConfig",
    "Contender",
    "Results",
    "compare",
    "load_results",
    "merge_results",
    "plot_curves",
    "render_table",
    "summary_table",
]
