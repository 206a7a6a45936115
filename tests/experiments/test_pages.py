"""Pages of results stand as their stored results give them."""

import pytest

from experiments.pages.__main__ import current
from experiments.pages.sources import ROOT, pages

PAGES = (
    "ablation.md",
    "environments.md",
    "libraries.md",
    "long-runs.md",
    "other-methods.md",
    "sb3.md",
    "seeds.md",
    "shipped-rule.md",
)
LARGEST = 700 * 1024
"""Bytes of one study's stored results."""


@pytest.mark.parametrize("name", [*PAGES, "default/CARD.md", "sb3-default.md", "sb3-evolved.md"])
def test_a_page_is_what_its_results_give(name):
    assert current(name, pages([name])[name]), "python -m experiments.pages writes it anew"


def test_every_page_is_known():
    with pytest.raises(ValueError, match=r"choose from ablation\.md, "):
        pages(["unknown.md"])


def test_a_study_takes_a_few_hundred_kilobytes():
    folders = {path.parent for path in ROOT.rglob("*.json.gz")}
    sizes = {folder: sum(p.stat().st_size for p in folder.glob("*.json.gz")) for folder in folders}
    assert sizes
    assert max(sizes.values()) < LARGEST
