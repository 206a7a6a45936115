"""How a method's score depends on the learning rate, in one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from learned_opt.analysis.reporting.curves import draw_curve, method_styles
from learned_opt.analysis.reporting.figures import Entry, finish, new_figure, tidy
from learned_opt.analysis.result_file import Array, read_results, structured

KIND, DATA = "learning-rate response", "responses.json.gz"


@dataclass(frozen=True, eq=False)
class Response:
    """One method on a family's n tasks: normalized scores at each of G learning rates, (G, n)."""

    method: str
    family: str
    lrs: tuple[float, ...]
    auc: Array
    final: Array


def read_responses(path: str | Path) -> list[Response]:
    """What a file of responses holds; of a folder, its responses.json.gz.

    Raises:
        ValueError: it is missing, damaged, or holds something else.
    """
    path = Path(path) / DATA if Path(path).is_dir() else Path(path)
    return [structured(each, Response) for each in read_results(path, KIND)["responses"]]


def plot_lr_response(
    found: Sequence[Response],
    path: str | Path,
    *,
    seed: int = 0,
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """The area and the end against the learning rate: interquartile means over all families' tasks.

    Args:
        found: responses, all at the same learning rates.
        path: the figure's file; its suffix gives the format.
        seed: of the bootstrap.
        colors: of methods, by their names.

    Raises:
        ValueError: responses at other learning rates than the first one's.
    """
    if any(each.lrs != found[0].lrs for each in found):
        raise ValueError("responses at other learning rates do not fit in one figure: draw them apart")
    figure, entries = new_figure(7.0, 3.0), dict[str, Entry]()
    generator = np.random.default_rng(seed)
    styles = method_styles([*dict.fromkeys(each.method for each in found)], colors)
    for place, (name, title) in enumerate({"auc": "area", "final": "end"}.items()):
        axes = figure.add_subplot(1, 2, place + 1)
        for method, scores in together(found, name).items():
            line, _ = draw_curve(
                axes, np.array(found[0].lrs), scores.T, styles[method], method, 2.0, generator
            )
            entries[method] = line, Path(method).stem
        axes.set_xscale("log")
        axes.set_xlabel("learning rate", fontsize=8)
        axes.set_ylabel(f"normalized return, {title}", fontsize=8)
        tidy(axes)
    return finish(figure, list(entries.values()), path, most=len(entries))


def together(found: Sequence[Response], name: str) -> dict[str, Array]:
    """Each method's scores (G, all tasks of all families)."""
    methods = dict.fromkeys(each.method for each in found)
    return {
        method: np.concatenate([getattr(each, name) for each in found if each.method == method], axis=1)
        for method in methods
    }
