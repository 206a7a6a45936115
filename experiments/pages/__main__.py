"""Write the pages of docs/results, and draw their figures, from the results that are stored there.

python -m experiments.pages            # all pages
python -m experiments.pages --figures  # and their figures
python -m experiments.pages --check    # changes nothing; exit code 1 where a page is not current
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import tyro

from experiments.pages.figures import draw_all
from experiments.pages.sources import ROOT, pages
from learned_opt.files import write_atomically


@dataclass(frozen=True)
class Options:
    """Which pages are made."""

    only: tuple[str, ...] = ()
    """Names of pages, such as ablation.md; all by default."""
    figures: bool = False
    """Draw the figures anew, too."""
    check: bool = False
    """Write nothing, and name the pages that are not current."""

    def run(self) -> int:
        """Make or check them."""
        made = pages(self.only)
        stale = [name for name, text in made.items() if not current(name, text)]
        if self.check:
            print(f"not current: {', '.join(stale)}" if stale else f"{len(made)} pages are current")
            return int(bool(stale))
        for name in stale:
            write_atomically(ROOT / name, made[name].encode())
        print(f"written: {', '.join(stale) or 'nothing, all pages are current'}")
        if self.figures:
            draw_all()
        return 0


def current(name: str, text: str) -> bool:
    """Whether a page stands there as its results give it."""
    path = ROOT / name
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(tyro.cli(Options, prog="python -m experiments.pages", description=__doc__).run())
