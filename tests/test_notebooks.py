"""The notebooks run, cell by cell, and what they show was printed by no particular machine."""

import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def outputs(notebook):
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_of_a_notebook_runs(path, tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    before = set(path.parent.iterdir())
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}})
    client.execute()  # raises what a cell raises
    assert set(path.parent.iterdir()) == before, "a notebook leaves files beside it"
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert ran
    assert all(cell.execution_count for cell in ran)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_stored_notebook_shows_what_it_printed_and_names_no_machine(path):
    stored = json.loads(path.read_text(encoding="utf-8"))
    shown = outputs(stored)
    assert any("image/png" in output.get("data", {}) or output.get("text") for output in shown)
    assert not any(output["output_type"] == "error" for output in shown)
    text = json.dumps([output for output in shown if "image/png" not in output.get("data", {})])
    assert "site-packages" not in text
    assert sys.prefix not in text
    assert len(path.read_bytes()) < 200_000


def test_there_are_notebooks():
    names = {path.stem for path in NOTEBOOKS}
    assert names == {"five_minutes", "drop_in", "train_a_rule", "read_a_comparison"}
