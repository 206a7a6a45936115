"""The Python in docs/ runs as printed: a page is one script, its blocks in order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if blocks(page)]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_the_pages_python_runs(page, tmp_path):
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks(page)))
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_pages_with_python_are_found():
    assert any(page.name == "your-own-policy.md" for page in PAGES)


def test_every_extra_that_the_documents_install_is_one():
    declared = metadata("learned-opt").get_all("Provides-Extra")
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    named = {name for page in pages for name in re.findall(r"'\.\[([a-z0-9]+)\]'", page.read_text())}
    assert "experiments" in named
    assert named <= set(declared)
