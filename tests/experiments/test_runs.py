import gzip
import json

import pytest

from experiments.sb3.runs import KIND, TrainingJob, gather_runs, write_runs
from experiments.sb3.settings import TUNED
from learned_opt.analysis.comparison.cache import Cache
from learned_opt.analysis.result_file import write_results


def kept(folder, finished):
    """A finished run in a cache."""

    class Job(TrainingJob):
        def run(self, on_update):
            return finished

    job = Job(finished.run, "default", tuple(finished.versions.items()))
    return job.value(Cache(folder), lambda work: None)


def test_runs_come_back_as_they_were(tmp_path, finished_run):
    made = [finished_run(seed=0), finished_run(TUNED, seed=1, lr=1e-3, diverged=True)]
    write_runs(tmp_path / "both.json.gz", made)
    assert gather_runs([tmp_path / "both.json.gz"]) == made


def test_caches_and_files_are_put_together_and_a_run_counts_once(tmp_path, finished_run):
    for folder, seeds in {"a": (0, 1), "b": (1, 2)}.items():
        for seed in seeds:
            kept(tmp_path / folder, finished_run(seed=seed))
    write_runs(tmp_path / "all.json.gz", [finished_run(seed=3)])
    found = gather_runs([tmp_path / "a", tmp_path / "b", tmp_path / "all.json.gz"])
    assert sorted(each.run.seed for each in found) == [0, 1, 2, 3]


def test_a_damaged_file_is_an_error_of_the_page(tmp_path, finished_run):
    kept(tmp_path, finished_run())
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="no gzipped JSON file"):
        gather_runs([tmp_path])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"curve": [1.0, 2.0]}, "a curve needs 100 finite returns"),
        ({"more": 1}, "Extra fields in constructor for FinishedRun: more"),
        ({"hyperparameters": {"num_envs": 7}}, "other hyper-parameters than today's: train it again"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path, finished_run, change, message):
    path = tmp_path / "runs.json.gz"
    write_runs(path, [finished_run()])
    data = json.loads(gzip.decompress(path.read_bytes()))
    data["runs"][0].update(change)
    write_results(path, KIND, data)
    with pytest.raises(ValueError, match=message):
        gather_runs([path])
