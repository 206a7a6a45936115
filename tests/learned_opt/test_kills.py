"""Whatever moment between two changes to files a command is killed at, it goes on to the same bytes."""

import csv
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from learned_opt.runs.checkpoint import read_checkpoint
from learned_opt.runs.config_file import written
from learned_opt.runs.lock import LOCK

RUN = {
    "families": ["navigation2d", "bandit"],
    "rule": {"hidden_size": 3},
    "meta_batch_size": 2,
    "batches_per_family": 1,
    "estimator": {"unroll_length": 2, "outer_num_envs": 1},
    "horizon": {"min": 4, "max": 8},
    "meta_steps": 4,
    "validation": {"every": 2, "num_tasks": 2, "num_updates": 2},
    "checkpoint": {"every": 2},
    "inner": {"hidden_size": 4, "num_envs": 2, "num_steps": 4},
}
STAGES = {
    **RUN,
    "stages": [
        {},
        {
            "estimator": {
                **{"kind": "es", "unroll_length": 2},
                **{"evolved_parameters": "head", "fitness_shaping": "rank"},
            }
        },
    ],
}
VARIANTS = {
    **RUN,
    "variants": {
        "full": {},
        "blind": {"rule": {"ablated_features": ["time"]}},
        "twice": {"stages": [{}, {}]},
    },
}
POLICY = {
    "episodes": 4,
    "num_trials": 4,
    "validation": {"every": 3, "num_tasks": 4},
    "checkpoint": {"every": 2},
}
COMPARED = (
    "--families bandit lqr --baselines adam sgd --num-tasks 2 --num-tuning-tasks 1 "
    "--num-updates 4 --num-evals 2"
)
SHOWN = "--num-tasks 2 --num-updates 4"
COMMANDS = {
    "seeds": ("meta-train --config stages.toml --meta-seeds 2", "--resume"),
    "seeds by options": (
        "meta-train --preset meta-sgd --families bandit --meta-batch-size 2 --meta-steps 2 --meta-seeds 2",
        "--resume",
    ),
    "one stage": ("meta-train --config run.toml", "--resume"),
    "rl2": (
        "meta-train --config policy.toml --preset rl2 --family bandit --meta-steps 6 --hidden-size 4",
        "--resume",
    ),
    "compare": (f"compare {COMPARED} --threads 1", ""),
    "ablate": (f"ablate --config variants.toml {SHOWN}", ""),
    "demo": (
        "demo --meta-steps 1 --validation-tasks 1 --num-tasks 1 --num-tuning-tasks 1 --num-updates 2",
        "",
    ),
}
"""What is killed, and what is added to the same command to go on."""
CLOCK = "seconds"
"""The one thing that two equal runs do not share: in metrics.csv a column, in checkpoints an entry."""


class Server:
    """Runs commands in a folder of its own, killed or not."""

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "out"
        for name, content in (("run", RUN), ("stages", STAGES), ("variants", VARIANTS), ("policy", POLICY)):
            (folder / f"{name}.toml").write_text(written(content).decode())
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killing.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=folder,
            text=True,
        )
        self.finished = {}

    def run(self, command, at=None):
        arguments = [*command.split(), "--out", str(self.out)]
        self.process.stdin.write(json.dumps({"arguments": arguments, "root": str(self.out), "at": at}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def whole(self, name):
        """The moments of a command that nothing kills, and what it leaves."""
        if name not in self.finished:
            shutil.rmtree(self.out, ignore_errors=True)
            answer = self.run(COMMANDS[name][0])
            assert answer["code"] == 0, answer["said"]
            self.finished[name] = answer["moments"], left(self.out)
        return self.finished[name]

    def killed(self, name, at):
        """Kill a command at a moment, then repeat it; why that is not as if nothing had happened, or None."""
        _, expected = self.whole(name)
        shutil.rmtree(self.out, ignore_errors=True)
        command, more = COMMANDS[name]
        killed = self.run(command, at)
        assert killed["code"] == -9, killed["said"]
        answer = self.run(f"{command} {more}")
        where = f"{name}, killed at moment {at}, {killed['moments'][-1]}"
        if answer["code"] != 0:
            return f"{where}: {answer['said'].strip()[-300:]}"
        found = left(self.out)
        other = sorted({*expected, *found} - {key for key in found if found[key] == expected.get(key)})
        return f"{where}: other {', '.join(other)}" if other else None


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    found = Server(tmp_path_factory.mktemp("kills"))
    yield found
    found.process.stdin.close()
    found.process.wait()


def left(folder):
    """Everything that a command leaves, by name, without what tells the time; the lock is no content."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): content(path)
        for path in files
        if path.name != LOCK and not path.name.startswith("events.out.tfevents.")
    }


def content(path):
    if path.name == "metrics.csv":
        rows = csv.DictReader(io.StringIO(path.read_text()))
        return [{key: value for key, value in row.items() if key != CLOCK} for row in rows]
    if path.suffix == ".ckpt":
        return plain({**read_checkpoint(path, "cpu"), CLOCK: 0})
    return path.read_bytes()


def plain(value):
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().view(-1).view(torch.uint8).tolist()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("seeds", r"before os.mkdir seed-1/stage-1"),
        ("seeds", r"half written seed-0/stage-2/metrics.csv"),
        ("rl2", r"before os.rename config.toml"),
        ("compare", r"half written cache/"),
        ("compare", r"before open curves.png"),
    ],
)
def test_a_command_killed_at_this_moment_goes_on_to_the_same_bytes(name, moment, server):
    moments, _ = server.whole(name)
    at = next(number for number, each in enumerate(moments, 1) if re.match(moment, each))
    assert server.killed(name, at) is None


KILLS = {"seeds": 30, "seeds by options": 6, "one stage": 6, "rl2": 10, "compare": 20, "ablate": 20}
"""Beside the demo's a hundred."""


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLS)
def test_no_kill_between_two_changes_to_files_changes_what_is_left(name, server):
    """Moments are spread evenly over all that there are."""
    source, failures, total = random.Random(name), [], len(server.whole(name)[0])
    for index in range(KILLS[name]):
        at = int((index + source.random()) * total / KILLS[name]) + 1
        failure = server.killed(name, at)
        print(f"{index + 1} of {KILLS[name]}: {failure or 'as if nothing had happened'}", flush=True)
        failures += [failure] if failure else []
    assert not failures, "\n".join(failures)


@pytest.mark.slow
def test_a_demo_that_is_killed_eight_times_on_its_way_ends_as_one_that_was_not(server):
    moments, expected = server.whole("demo")
    source, command = random.Random(0), COMMANDS["demo"][0]
    shutil.rmtree(server.out)
    for kill in range(8):
        # Further on each time: what is done already passes no moments again, or few.
        killed = server.run(command, source.randrange(1, len(moments) // 4))
        assert killed["code"] == -9, killed["said"]
        print(f"{kill + 1} of 8: {killed['moments'][-1]}", flush=True)
    answer = server.run(command)
    assert answer["code"] == 0, answer["said"]
    assert left(server.out) == expected
