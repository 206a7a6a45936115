"""learned-opt plot: figures of stored results."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import matplotlib.style
import tyro

from learned_opt.analysis import load_results, plot_curves
from learned_opt.analysis.reporting.figures import check_figure
from learned_opt.analysis.reporting.lr_response import plot_lr_response, read_responses
from learned_opt.analysis.reporting.summary_plots import plot_heatmap, plot_profiles, plot_times
from learned_opt.analysis.results import RESULTS, Results
from learned_opt.analysis.select import joined, selected
from learned_opt.commands.outputs import check_file
from learned_opt.settings import Seed

KINDS = Literal["curves", "profiles", "heatmap", "times", "lr-response"]


@dataclass(frozen=True)
class Plot:
    """Draw stored results, of one comparison or of several."""

    results: tyro.conf.Positional[tuple[Path, ...]]
    """results.json.gz, or the folder that holds it; several are drawn as one. Of lr-response:
    responses.json.gz."""
    kind: KINDS = "curves"
    """Learning curves; performance profiles; a heat-map of AUCs; updates to 90 % of the reference method's
    end; scores against the learning rate, as `python -m experiments.lr_response` found them."""
    out: Path | None = None
    """The figure: .png, .pdf or .svg; KIND.png by default."""
    x: Literal["updates", "steps"] = "updates"
    """Horizontal axis of curves: update steps or environment steps."""
    y: Literal["returns", "normalized"] = "returns"
    """Vertical axis of curves: raw or normalized returns."""
    families: tuple[str, ...] = ()
    """Of curves: those to draw; all by default."""
    methods: tuple[str, ...] = ()
    """Which methods to draw, in this order, by their labels in the results; all by default."""
    labels: dict[str, str] = field(default_factory=dict)
    """Other names of methods: OLD NEW OLD NEW ..."""
    colors: dict[str, str] = field(default_factory=dict)
    """Colors of methods, by the names drawn: NAME COLOR NAME COLOR ..., as matplotlib writes them."""
    style: str | None = None
    """A matplotlib style: dark_background, a name of `matplotlib.style.available`, or a .mplstyle file."""
    reference_method: str | None = None
    """Of times: the method that sets the target; adam by default."""
    seed: Seed = 0
    """Seed of the bootstrap behind the bands."""

    def run(self) -> int:
        """Draw.

        Raises:
            ValueError: no results, a method or a color that there is not, or an option of another kind.
        """
        out = self.out or Path(f"{self.kind}.png")
        check_figure(out)
        check_file(out)
        self._check()
        with _styled(self.style):
            if self.kind == "lr-response":
                responses = [each for path in self.results for each in read_responses(path)]
                plot_lr_response(responses, out, seed=self.seed, colors=self.colors)
            else:
                self._draw(selected(self._results(), self.methods, self.labels), out)
        print(f"{self.kind}: {out}")
        return 0

    def _check(self) -> None:
        if not self.results:
            raise ValueError(f"name what to draw: {RESULTS}, or the folder that holds it")
        if self.kind != "curves" and (self.x, self.y) != ("updates", "returns"):
            raise ValueError(f"--x and --y are of curves, not of {self.kind}")
        if self.kind != "curves" and self.families:
            raise ValueError(f"--families is of curves, not of {self.kind}")
        if self.kind != "times" and self.reference_method is not None:
            raise ValueError(f"--reference-method is of times, not of {self.kind}")
        if self.kind == "lr-response" and (self.methods or self.labels):
            raise ValueError("--methods and --labels are not of lr-response, which has the names of its file")
        if self.kind == "heatmap" and self.colors:
            raise ValueError("--colors is not of heatmap, whose colors are scores")

    def _results(self) -> Results:
        """What is drawn, together."""
        if len(self.results) == 1:
            return load_results(self.results[0])
        parts: dict[str, Results] = {}
        for path in self.results:
            folder = path.parent if path.name == RESULTS else path
            name = folder.resolve().name
            if name in parts:
                raise ValueError(f"two results are in folders called {name}: rename one, or name each once")
            parts[name] = load_results(path)
        return joined(parts)

    def _draw(self, results: Results, out: Path) -> None:
        if self.kind == "curves":
            names = self.families or None
            plot_curves(results, out, self.x, y=self.y, families=names, seed=self.seed, colors=self.colors)
        elif self.kind == "profiles":
            plot_profiles(results, out, seed=self.seed, colors=self.colors)
        elif self.kind == "heatmap":
            plot_heatmap(results, out)
        else:
            plot_times(
                results, out, reference_method=self.reference_method, seed=self.seed, colors=self.colors
            )


def _styled(style: str | None) -> AbstractContextManager[None]:
    """Matplotlib's settings as a style has them, and afterwards as they were.

    Raises:
        ValueError: there is no such style.
    """
    if style is None:
        return nullcontext()
    if style not in matplotlib.style.available and not Path(style).is_file():
        known = ", ".join(name for name in matplotlib.style.available if not name.startswith("_"))
        raise ValueError(f"no style {style}: name a .mplstyle file, or one of {known}")
    context: AbstractContextManager[None] = matplotlib.style.context(style)
    return context
