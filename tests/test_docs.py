"""The pages: their Python runs, what is made from the code is current, the site builds without a warning."""

from __future__ import annotations

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


@pytest.fixture
def run(run_python):
    def completed(*command, cwd=ROOT):
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        done = run_python(*command, cwd=cwd, PYTHONPATH=path, NO_MKDOCS_2_WARNING="1")
        return done.returncode, done.stdout + done.stderr

    return completed


SCRIPTS = [page for page in PAGES if blocks(page)]


@pytest.mark.parametrize("page", SCRIPTS, ids=[str(page.relative_to(ROOT)) for page in SCRIPTS])
def test_a_pages_blocks_in_order_are_a_script_that_runs(page, run, tmp_path):
    if "stable_baselines3" in page.read_text():
        pytest.importorskip("stable_baselines3")
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks(page)))
    code, output = run(script, cwd=tmp_path)
    assert code == 0, output[-2000:]


def test_every_tutorial_has_python_to_run():
    assert {page.stem for page in SCRIPTS} >= {page.stem for page in (ROOT / "docs" / "tutorials").iterdir()}


def test_generated_pages_are_current(run):
    code, output = run(ROOT / "docs" / "_build" / "generate.py", "--check")
    assert code == 0, f"python docs/_build/generate.py writes them anew: {output[-2000:]}"


@pytest.mark.skipif(find_spec("mkdocs") is None or sys.version_info < (3, 11), reason="needs the extra docs")
def test_the_site_builds_without_a_warning_and_asks_nobody_else_for_anything(run, tmp_path):
    code, output = run("-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site")
    assert code == 0, output[-4000:]
    page = (tmp_path / "site" / "index.html").read_text()
    assert not re.findall(
        r'<(?:script|img|iframe)[^>]+src="https?://|<link[^>]+stylesheet[^>]+href="https?://', page
    )


def test_every_extra_that_the_documents_install_is_one():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        name for page in [README, *PAGES] for name in re.findall(r"'\.\[([a-z0-9]+)\]'", page.read_text())
    }
    assert "experiments" in named
    assert named <= set(declared)


def test_the_readme_fits_on_a_few_screens():
    assert len(README.read_text().splitlines()) <= 150


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text())
    assert len(links) > 15
    assert [link for link in links if not (ROOT / link).exists()] == []
