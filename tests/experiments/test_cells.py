import json

import pytest

from experiments.sb3.cells import cell_path, gather_cells, read_cells, stored_cell, write_cells
from experiments.sb3.settings import TUNED


def test_cells_come_back_as_they_were(tmp_path, cell):
    made = [cell(seed=0), cell(TUNED, seed=1, lr=1e-3, diverged=True)]
    write_cells(tmp_path / "both.json", made)
    assert read_cells(tmp_path / "both.json") == made


def test_folders_and_files_are_merged_and_a_run_counts_once(tmp_path, cell):
    for folder, seeds in {"a": (0, 1), "b": (1, 2)}.items():
        (tmp_path / folder).mkdir()
        for seed in seeds:
            one = cell(seed=seed)
            write_cells(cell_path(tmp_path / folder, one.run), [one])
    write_cells(tmp_path / "all.json", [cell(seed=3)])
    found = gather_cells([tmp_path / "a", tmp_path / "b", tmp_path / "all.json"])
    assert [one.run.seed for one in found] == [0, 1, 2, 3]


def test_a_damaged_cell_counts_as_absent_when_training_and_as_an_error_in_the_table(tmp_path, cell):
    one = cell()
    path = cell_path(tmp_path, one.run)
    assert stored_cell(tmp_path, one.run) is None
    write_cells(path, [one])
    assert stored_cell(tmp_path, one.run) == one
    path.write_bytes(path.read_bytes()[:-40])
    assert stored_cell(tmp_path, one.run) is None
    with pytest.raises(ValueError, match="is no file of finished runs"):
        gather_cells([tmp_path])


def test_a_run_with_other_hyper_parameters_is_outdated(tmp_path, cell):
    one = cell()
    path = cell_path(tmp_path, one.run)
    write_cells(path, [one])
    data = json.loads(path.read_text())
    data["cells"][0]["hyperparameters"]["environments"] = 7
    path.write_text(json.dumps(data))
    assert stored_cell(tmp_path, one.run) is None
    with pytest.raises(ValueError, match="other hyper-parameters than today's: train it again"):
        read_cells(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"curve": [1.0, 2.0]}, "a curve needs 100 finite returns"),
        ({"more": 1}, "missing or unknown fields more"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path, cell, change, message):
    path = tmp_path / "cell.json"
    write_cells(path, [cell()])
    data = json.loads(path.read_text())
    data["cells"][0].update(change)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message):
        read_cells(path)
    for other in (1, 3):  # runs of format 1 shared random streams
        data["learned_opt_clients"] = other
        path.write_text(json.dumps(data))
        with pytest.raises(ValueError, match=f"its format is {other}, this version's 2"):
            read_cells(path)
