"""The figures of docs/results that are drawn from stored results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from experiments.pages.sources import ROOT
from experiments.sb3.__main__ import draw
from experiments.sb3.runs import RUNS, gather_runs
from learned_opt.analysis import load_results, plot_curves
from learned_opt.analysis.reporting.summary_plots import plot_heatmap, plot_profiles, plot_times
from learned_opt.analysis.results import RESULTS, Results

KINDS: dict[str, Callable[[Results, Path], object]] = {
    "curves": plot_curves,
    "heatmap": plot_heatmap,
    "profiles": plot_profiles,
    "times": plot_times,
}


def draw_all() -> None:
    """Draw each figure that stands beside results anew, and those of the SB3 study."""
    for path in sorted(ROOT.rglob(RESULTS)):
        results = load_results(path)
        for kind, plot in KINDS.items():
            figure = path.with_name(f"{kind}.png")
            if figure.exists():
                plot(results, figure)
                print(figure.relative_to(ROOT))
    for rule in ("default", "evolved"):
        out = ROOT / f"sb3-{rule}.md"
        draw(gather_runs([out.with_suffix("") / RUNS]), out, rule)
        print(f"sb3-{rule}")
