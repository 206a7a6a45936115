"""What all figures share: names drawn as they are, legends that fit, and files that are what they say."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import TextToPath
from matplotlib.ticker import MaxNLocator
from PIL import Image

from learned_opt.files import write_atomically
from learned_opt.verbatim import visible

SUFFIXES = (".png", ".pdf", ".svg")
"""What figures can be."""
COLORS, SHADES = 64, 256
"""Of a PNG of lines and bands, and of one with a color map."""
LINE = 1.5
"""Height of a legend's line, in font sizes."""
_KEY, _GAP, _PADDING = 2.8, 2.0, 2.0
"""Widths of a legend's key, of the gap between its columns and around all, in font sizes (its defaults)."""
_LARGEST = 2**15
"""Pixels of a figure's longer side: larger ones are drawn in fewer dots an inch."""

Entry = tuple[Artist, str]
"""A legend's key and its name."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, laid out by constraints, that no global state knows."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panel_alone(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """A figure of one panel whose x are whole numbers, and that panel."""
    figure = new_figure(5.0, 3.2)
    axes = figure.subplots()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    as_it_is(axes.set_title(title), 4.5)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def tidy(axes: Axes) -> None:
    """Small ticks, a light grid behind everything, no frame above and at the right."""
    axes.tick_params(labelsize=7, length=2.5, width=0.6)
    axes.grid(color=matplotlib.rcParams["text.color"], alpha=0.08, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def check_figure(path: str | Path) -> None:
    """Refuse the name of a file that is no figure's.

    Raises:
        ValueError: its suffix names no format of `SUFFIXES`.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in SUFFIXES:
        told = f"the suffix {suffix!r}" if suffix else "no suffix"
        raise ValueError(
            f"{path} has {told}, which would give the figure's format: choose .png, .pdf or .svg"
        )


def save_figure(figure: Figure, path: str | Path, dpi: float = 200, *, colors: int = COLORS) -> None:
    """Write a figure to exactly this file, atomically; a PNG of so many colors.

    Raises:
        ValueError: as `check_figure`.
        OSError: it cannot be written.
    """
    check_figure(path)
    buffer = io.BytesIO()
    fitting = min(dpi, _LARGEST / max(figure.get_size_inches()))
    form = Path(path).suffix[1:].lower()
    figure.savefig(buffer, format=form, dpi=fitting)
    write_atomically(Path(path), _in_palette(buffer, colors) if form == "png" else buffer.getvalue())


def finish(
    figure: Figure, entries: Sequence[Entry], path: str | Path, *, most: int, dpi: float = 200
) -> Figure:
    """A figure with the legend below it, for which it grows, written to its file; see `legend_below`."""
    higher = legend_below(figure, entries, figure.get_figwidth(), most=most)
    figure.set_figheight(figure.get_figheight() + higher)
    save_figure(figure, path, dpi)
    return figure


def _in_palette(buffer: io.BytesIO, colors: int) -> bytes:
    """A PNG of at most so many colors, which takes a third of the bytes."""
    small = io.BytesIO()
    image = Image.open(buffer).convert("RGB")
    image.quantize(colors, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def as_it_is(text: Text, inches: float | None = None) -> Text:
    """Have a text drawn as its characters, none of which is mathematics or TeX.

    Args:
        text: of a figure.
        inches: breaks its lines so that none is wider.
    """
    text.set_usetex(False)
    text.set_parse_math(False)
    text.set_text(visible(text.get_text(), keep="\n"))
    if inches is not None:
        text.set_text(_broken(text.get_text(), text.get_fontproperties(), inches))
    return text


def label_ticks(
    axis: Axis, names: Sequence[str], inches: float, *, fontsize: float = 7, **style: Any
) -> tuple[float, int]:
    """Put names at the places 0, 1, ... of an axis, in lines of at most so many inches.

    Returns:
        The widest one's inches, and the most lines of any.
    """
    texts = [as_it_is(Text(0, 0, name, fontsize=fontsize), inches) for name in names]
    axis.set_ticks(range(len(names)), [text.get_text() for text in texts], fontsize=fontsize, **style)
    for tick in axis.get_ticklabels():
        as_it_is(tick)
    widths = [_width(text.get_text(), text.get_fontproperties()) for text in texts]
    return max(widths, default=0.0), max((text.get_text().count("\n") + 1 for text in texts), default=1)


def legend_below(
    figure: Figure | SubFigure, entries: Sequence[Entry], inches: float, *, most: int, fontsize: float = 8
) -> float:
    """One legend under all panels, of as many columns as fit.

    Args:
        figure: laid out by constraints.
        entries: keys and names, whatever characters names have.
        inches: width of the figure.
        most: columns, at the most.
        fontsize: in points.

    Returns:
        Inches by which the figure should get higher: what the legend has beyond two lines.
    """
    if not entries:
        return 0.0
    em = fontsize / 72
    room = inches - _PADDING * em
    texts = [as_it_is(Text(0, 0, name, fontsize=fontsize), room - _KEY * em) for _, name in entries]
    widest = max(_width(text.get_text(), text.get_fontproperties()) for text in texts)
    abreast = int((room + _GAP * em) / (widest + (_KEY + _GAP) * em))
    columns = max(1, min(len(entries), most, abreast))
    # Names come afterwards: matplotlib leaves out, or warns of, what begins with an underscore.
    legend = figure.legend(
        [key for key, _ in entries],
        [str(number) for number in range(len(entries))],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=fontsize,
    )
    for drawn, text in zip(legend.get_texts(), texts, strict=True):
        drawn.set_text(text.get_text())
        as_it_is(drawn)
    lines = [text.get_text().count("\n") + 1 for text in texts]
    rows = sum(lines) if columns == 1 else -(-len(entries) // columns) * max(lines)
    return LINE * em * max(rows - 2, 0)


def _width(text: str, font: FontProperties) -> float:
    """Inches of the longest line."""
    measure = TextToPath().get_text_width_height_descent
    return max(float(measure(line, font, ismath=False)[0]) for line in text.split("\n")) / 72


def _broken(text: str, font: FontProperties, inches: float) -> str:
    """The text with line ends at spaces, or where there are none, so that each line is as narrow."""
    lines = text.split("\n")
    longest, broken = max(map(len, lines)), text
    while longest > 1 and (wide := _width(broken, font)) > inches:
        longest = max(1, min(longest - 1, int(longest * inches / wide)))
        parts = (textwrap.wrap(line, longest, drop_whitespace=False, tabsize=1) or [""] for line in lines)
        broken = "\n".join(part for line in parts for part in line)
    return broken
