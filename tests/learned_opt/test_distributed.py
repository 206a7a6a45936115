"""Several processes make one run: the numbers of one process, files of the first, and restarts."""

import json
import math
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from learned_opt.algorithms import A2C
from learned_opt.cli import main
from learned_opt.commands import meta_train
from learned_opt.meta.config import run_config
from learned_opt.meta.estimators.presentation import Presentation
from learned_opt.meta.trainer import MetaTrainer, new_rule
from learned_opt.rules.counter_rng import initial_rng_state
from learned_opt.runs.checkpoint import checkpoints, load_checkpoint, load_parts, read_checkpoint
from learned_opt.runs.config_file import changed, plain, written
from learned_opt.runs.distributed import ALONE, Ranks, claim_device
from learned_opt.tasks import Noise, Shard
from learned_opt.tasks.random import derive_noise, derive_seed

TOLD = Presentation(roles=True, critic_first=False)
TINY = run_config(
    {
        "families": ("navigation2d", "cartpole"),
        "rule": {"hidden_size": 4},
        "meta_batch_size": 4,
        "batches_per_family": 1,
        "estimator": {"unroll_length": 3, "outer_num_envs": 2},
        "horizon": {"min": 6, "max": 12},
        "meta_steps": 4,
        "validation": {"every": 2, "num_tasks": 2, "num_updates": 4},
        "checkpoint": {"every": 2},
        "inner": A2C(hidden_size=4, num_envs=2, num_steps=6),
    }
)
EVOLVED = changed(
    TINY,
    estimator={
        "kind": "pes",
        "fitness_shaping": "rank",
        "unroll_length": TINY.estimator.unroll_length,
    },
)
STARTED = changed(TINY, families=("navigation2d",), learned_init=True)
RUNS = {
    "tbptt": changed(TINY, rule={"parameter_noise": True}),
    "pes": changed(EVOLVED, meta_batch_size=8, rule={"parameter_noise": True}),
    "second order": changed(
        STARTED, estimator={"second_order": True, "unroll_length": 2}, horizon={"min": 2, "max": 6}
    ),
    "reptile": changed(
        STARTED,
        estimator={
            "kind": "reptile",
            "unroll_length": STARTED.estimator.unroll_length,
        },
    ),
}
WINDOWS = {
    "tbptt": TINY,
    "pes": EVOLVED,
    "ppo": changed(TINY, inner={"kind": "ppo", "num_minibatches": 2, "update_epochs": 2}),
    "reinforce": changed(
        TINY,
        families=("gridworld",),
        inner={"kind": "reinforce", "hidden_size": 4, "num_envs": 2},
        estimator={"kind": "tbptt", "unroll_length": 3, "outer_num_envs": 0},
    ),
}
"""The last on a family whose horizons vary. Noise of a rule (parameter_noise) would be the same to rounding
alone: torch's logarithm rounds by where in a tensor a number is."""
FORKED = """
import os, runpy, signal, socket, sys, traceback

def rank(main, arguments, index, count, port):
    place = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    launcher = {"TORCHELASTIC_RUN_ID": "forked", "TORCHELASTIC_RESTART_COUNT": 0}
    os.environ.update({name: str(value) for name, value in (place | store | launcher).items()})
    code = 1
    try:
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code or 0)

if __name__ == "__main__":
    counts, script, *arguments = sys.argv[1:]
    main = runpy.run_path(script)["main"]
    for count in map(int, counts.split(",")):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        running = set()
        for index in range(count):
            child = os.fork()
            if child == 0:
                rank(main, arguments, index, count, port)
            running.add(child)
        while running:
            child, status = os.wait()
            running.remove(child)
            if status:  # the others would wait for it
                for other in running:
                    os.kill(other, signal.SIGKILL)
                sys.exit(1)
"""
"""Calls a script's main in so many processes as torchrun would start it, forked from one that has imported
everything: imports take longer than these runs."""
TWO_RANKS = """
import json
from pathlib import Path
import torch
from learned_opt.runs.distributed import joined
from learned_opt.meta.config import run_config
from learned_opt.meta.trainer import MetaTrainer

def main(arguments):
    runs, out, half = (Path(each) for each in arguments)
    with joined() as ranks:
        for name, fields in json.loads(runs.read_text()).items():
            MetaTrainer(run_config(fields), out / name, ranks=ranks).run()
            if (half / name).exists():
                MetaTrainer(run_config(fields), half / name, resume=True, ranks=ranks).run()
        try:
            ranks.check_equal([torch.tensor([1.0 + ranks.shard.index])], "numbers")
        except RuntimeError as error:
            (out.parent / f"refused {ranks.shard.index}").write_text(str(error))
"""

LEARNERS = """
import json
from pathlib import Path
import torch
from learned_opt.meta.config import run_config
from learned_opt.meta.estimators.presentation import Presentation
from learned_opt.meta.trainer import new_rule
from learned_opt.runs.distributed import joined

def learned(fields, ranks):
    config = run_config(fields)
    rule, told = new_rule(config), Presentation(roles=True, critic_first=False)
    group = config.group(config.families[0], rule, seed=0, presentation=told, ranks=ranks)
    for _ in range(4):
        group.advance(rule)
    return group.state_dict()

def main(arguments):
    windows, out = (Path(each) for each in arguments)
    with joined() as ranks:
        for name, fields in json.loads(windows.read_text()).items():
            place = f"{name} {ranks.shard.index + 1} of {ranks.shard.count}.pt"
            torch.save(learned(fields, ranks), out / place)
"""


def by_threads(monkeypatch, count, act):
    """What `act` of each of `count` ranks returns, which are threads, and how many messages each received."""
    boxes, thread, received = {}, threading.local(), [0] * count

    def box(source, to):
        return boxes.setdefault((source, to), queue.SimpleQueue())

    def send(tensor, to):
        box(thread.index, to).put(tensor.clone())

    def receive(tensor, source):
        tensor.copy_(box(source, thread.index).get(timeout=60))
        received[thread.index] += 1

    def receive_later(tensor, source):
        return SimpleNamespace(wait=lambda: receive(tensor, source))

    def rank(index):
        thread.index = index
        return act(Ranks(Shard(index, count)))

    monkeypatch.setattr(dist, "send", send)
    monkeypatch.setattr(dist, "isend", send)
    monkeypatch.setattr(dist, "recv", receive)
    monkeypatch.setattr(dist, "irecv", receive_later)
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(rank, range(count))), received


def environment():
    """What a child needs to import this very tree, one thread each."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


def torchrun(*arguments, options=()):
    """Two ranks of a module or script, as users start them."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    return started(*command, *arguments)


def forked(script, *arguments, counts="2"):
    """A script's main by so many ranks, one count after the other."""
    folder = script.parent
    (folder / "forked.py").write_text(FORKED)
    process = started(folder / "forked.py", counts, script, *arguments)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed


def started(*command):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def joined_rows(states):
    """A group's learners as one process holds them, of the parts of several."""
    rows = sum(len(state["age"]) for state in states) // (2 if "perturbations" in states[0] else 1)
    return ALONE.own_rows(states, len(states), rows)


def checkpoint(folder):
    """With all ranks' learners joined."""
    content = load_checkpoint(folder, "cpu")
    held = (part["groups"] for part in load_parts(folder, content, "cpu", ALONE))
    return {**content, "groups": [joined_rows(states) for states in zip(*held, strict=True)]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of each of RUNS by one process, by two, and by two from the middle of one's."""
    folder = tmp_path_factory.mktemp("runs")
    for name, config in RUNS.items():
        MetaTrainer(config, folder / "one" / name).run()
    for name in ("tbptt", "pes"):
        trainer = MetaTrainer(RUNS[name], folder / "half" / name)
        trainer.assess()
        trainer.take_step()
        trainer.take_step()
        trainer.assess()
        trainer._save()
    (folder / "runs.json").write_text(json.dumps({name: plain(config) for name, config in RUNS.items()}))
    (folder / "two_ranks.py").write_text(TWO_RANKS)
    forked(*(folder / name for name in ("two_ranks.py", "runs.json", "two", "half")))
    return folder


def assert_same_run(one, two):
    """Equal up to the order in which floats are added, and with the same random numbers to come."""
    one, two = checkpoint(one), checkpoint(two)
    assert one["step"] == two["step"] == 4
    torch.testing.assert_close(two["rule"], one["rule"], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(two["average"], one["average"], rtol=1e-3, atol=1e-5)
    for ours, theirs in zip(two["groups"], one["groups"], strict=True):
        assert torch.equal(ours["drawn"], theirs["drawn"])
        for key in ("parameters", "age", "horizon", "horizon_known", "rule_state", "learner"):
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-4)
        if "perturbations" in theirs:
            torch.testing.assert_close(ours["perturbations"], theirs["perturbations"])
    assert two["best"] == pytest.approx(one["best"], rel=1e-3, abs=1e-4)


COUNTS = (2, 3, 4, 5, 7, 8, 12, 1000)


@pytest.mark.parametrize("count", COUNTS)
def test_sums_have_the_same_bits_on_every_rank_after_log2_rounds(monkeypatch, count):
    terms = torch.randn(count, 5, generator=torch.Generator().manual_seed(0))

    def added(ranks):
        term = terms[ranks.shard.index]
        total = ranks.sum({"row": term[:4], "scalar": term[4]})
        assert total["row"].shape == (4,)
        assert total["scalar"].shape == ()
        return torch.cat((total["row"], total["scalar"].view(1)))

    sums, received = by_threads(monkeypatch, count, added)
    assert all(torch.equal(total, sums[0]) for total in sums)
    torch.testing.assert_close(sums[0], terms.double().sum(0).float(), rtol=1e-5, atol=1e-5)
    assert max(received) <= math.floor(math.log2(count)) + (2 if count & (count - 1) else 0)


@pytest.mark.parametrize("count", COUNTS)
def test_gathered_rows_stand_in_the_order_of_ranks_after_log2_rounds(monkeypatch, count):
    rows = torch.arange(2 * count * 3).view(count, 2, 3)
    gathered, received = by_threads(monkeypatch, count, lambda ranks: ranks.gather(rows[ranks.shard.index]))
    assert all(torch.equal(each, rows.flatten(0, 1)) for each in gathered)
    assert max(received) == math.ceil(math.log2(count))


def test_what_one_rank_wants_all_hear_with_the_next_sum(monkeypatch):
    def polled(ranks):
        told = ranks.poll(lambda: ranks.shard.index == 2, lambda: False)
        before = list(told())
        assert ranks.sum({"one": torch.ones(())})["one"] == 3
        return before, list(told())

    heard, _ = by_threads(monkeypatch, 3, polled)
    assert heard == [([False, False], [True, False])] * 3
    assert ALONE.poll(lambda: True, lambda: False)() == [True, False]


def test_a_refusal_of_one_rank_is_everybodys(monkeypatch):
    def asked(ranks):
        def function():
            if ranks.shard.index == 1:
                raise OSError("the disk is full")
            return f"rank {ranks.shard.index}"

        assert ranks.each(lambda: "x" * ranks.shard.index) == ["", "x", "xx"]
        with pytest.raises(OSError, match="the disk is full"):
            ranks.each(function)

    by_threads(monkeypatch, 3, asked)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_make_the_run_of_one(runs, name):
    born = dict(new_rule(RUNS[name]).named_parameters())
    trained = checkpoint(runs / "one" / name)["rule"]
    assert any(not torch.equal(born[key], trained[key]) for key in born)
    assert_same_run(runs / "one" / name, runs / "two" / name)


@pytest.mark.parametrize("name", ["tbptt", "pes"])
def test_a_run_goes_on_with_another_number_of_processes(runs, name):
    assert_same_run(runs / "one" / name, runs / "half" / name)


def test_a_run_of_two_goes_on_with_one(runs, tmp_path):
    """Its learners are those that two held: in a run of no further steps they are saved as they were."""
    folder = tmp_path / "run"
    shutil.copytree(runs / "two" / "pes", folder)
    trainer = MetaTrainer(RUNS["pes"], folder, resume=True)
    trainer._save()
    two, one = (checkpoint(place)["groups"] for place in (runs / "two" / "pes", folder))
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_each_process_writes_its_own_learners_and_the_first_one_all_else(runs):
    """Parts are dropped with the checkpoint that names them; meta-steps 0 to 4 make three."""
    folder = runs / "two" / "tbptt"
    kept = [read_checkpoint(path, "cpu") for path in checkpoints(folder)]
    assert sorted(name for content in kept for name in content["parts"]) == sorted(
        path.name for path in folder.glob("*.part")
    )
    for content in kept:
        assert not content.keys() & {"groups"}
        parts = [read_checkpoint(folder / name, "cpu") for name in content["parts"]]
        assert [len(part["groups"][0]["age"]) for part in parts] == [2, 2]
    assert not list((runs / "one" / "tbptt").glob("*.part"))


def test_a_checkpoint_without_one_of_its_parts_is_passed_over(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs / "two" / "tbptt", folder)
    latest, before = (read_checkpoint(path, "cpu") for path in checkpoints(folder)[:2])
    (folder / latest["parts"][1]).unlink()
    assert load_checkpoint(folder, "cpu")["step"] == before["step"]
    spoilt = folder / before["parts"][0]
    spoilt.write_bytes(spoilt.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"is damaged.*remove checkpoint-0000002\.ckpt to go on from"):
        MetaTrainer(RUNS["tbptt"], folder, resume=True)


def test_parts_that_no_checkpoint_names_are_passed_over_and_cleared_away(runs, tmp_path):
    """As where all processes are killed between writing their parts and the checkpoint."""
    folder = tmp_path / "run"
    shutil.copytree(runs / "two" / "tbptt", folder)
    part = next(folder.glob("*.part")).read_bytes()
    lost = folder / f"checkpoint-{3:07d}.1-of-2-{0:016x}.part"
    lost.write_bytes(part)
    trainer = MetaTrainer(RUNS["tbptt"], folder, resume=True)
    assert trainer.step == 4
    trainer._save()
    assert not lost.exists()


@pytest.mark.parametrize("name", WINDOWS)
def test_learners_are_the_same_bit_for_bit_by_one_two_and_four_processes(learners, name):
    whole = {}
    for count in (1, 2, 4):
        parts = [torch.load(learners / f"{name} {rank + 1} of {count}.pt") for rank in range(count)]
        whole[count] = joined_rows(parts)
    assert len(whole[1]["parameters"].unique(dim=0)) >= 4
    torch.testing.assert_close(whole[2], whole[1], rtol=0, atol=0)
    torch.testing.assert_close(whole[4], whole[1], rtol=0, atol=0)


@pytest.fixture(scope="module")
def learners(tmp_path_factory):
    """The folder of what 8 learners of each of WINDOWS became, by one, two and four processes."""
    folder = tmp_path_factory.mktemp("learners")
    windows = {name: plain(changed(config, meta_batch_size=8)) for name, config in WINDOWS.items()}
    (folder / "windows.json").write_text(json.dumps(windows))
    (folder / "learners.py").write_text(LEARNERS)
    forked(folder / "learners.py", folder / "windows.json", folder, counts="1,2,4")
    return folder


def test_processes_that_drift_apart_are_noticed(runs):
    told = [(runs / f"refused {rank}").read_text() for rank in range(2)]
    assert all("the ranks hold different numbers" in each for each in told)


def test_a_run_survives_the_death_of_a_process(tmp_path):
    config = changed(TINY, meta_steps=30, validation={"every": 10}, checkpoint={"every": 5})
    (tmp_path / "tiny.toml").write_text(written(plain(config)).decode())

    def command(out):
        return "meta-train", "--config", tmp_path / "tiny.toml", "--out", out, "--resume"

    process = torchrun("-m", "learned_opt", *command(tmp_path / "killed"), options=("--max-restarts", "1"))
    deadline = time.monotonic() + 600
    while not checkpoints(tmp_path / "killed"):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    printed, _ = process.communicate(timeout=900)
    assert process.returncode == 0, printed
    assert checkpoint(tmp_path / "killed")["step"] == 30
    assert "SIGKILL" in printed or "-9" in printed

    (tmp_path / "command.py").write_text("from learned_opt.cli import main")
    forked(tmp_path / "command.py", *command(tmp_path / "whole"))
    killed, whole = ((tmp_path / name / "rule.safetensors").read_bytes() for name in ("killed", "whole"))
    assert killed == whole


@pytest.mark.parametrize("replicas", [1, 2])
def test_shares_of_the_noise_make_the_whole(replicas):
    def noise(**share):
        return Noise(0, replicas=replicas, **share)

    whole, parts = noise(), [noise(shard=Shard(index, 3)) for index in range(3)]
    for kind in ("uniform", "normal", "uniform"):
        drawn = getattr(whole, kind)(12, 5).view(replicas, 12 // replicas, 5)
        pieces = [getattr(part, kind)(4, 5).view(replicas, 4 // replicas, 5) for part in parts]
        assert torch.equal(torch.cat(pieces, 1), drawn)


def test_learned_noise_depends_on_the_learner_not_on_the_process():
    layout = TINY.group("cartpole", new_rule(TINY), seed=0, presentation=TOLD).layout
    everyone, own = (initial_rng_state(layout, torch.arange(first, 4), None) for first in (0, 2))
    assert torch.equal(everyone[2:], own)


def test_learners_that_cannot_be_shared_evenly_are_refused():
    three, four = Ranks(Shard(0, 3)), Ranks(Shard(0, 4))
    with pytest.raises(ValueError, match=r"3 processes cannot share 4 learners evenly: .* a multiple of 3"):
        TINY.group("cartpole", new_rule(TINY), seed=0, presentation=TOLD, ranks=three)
    with pytest.raises(ValueError, match="set meta_batch_size to a multiple of 8"):
        EVOLVED.group("cartpole", new_rule(EVOLVED), seed=0, presentation=TOLD, ranks=four)


def test_devices_that_are_not_one_each_are_refused(monkeypatch):
    two = Ranks(Shard(0, 2))
    with pytest.raises(ValueError, match="cannot share 'cuda:1'"):
        claim_device("cuda:1", two)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    with pytest.raises(ValueError, match="1000 processes on a machine with"):
        claim_device("cuda", two)
    claim_device("cpu", two)


def test_what_is_one_process_is_refused_under_torchrun(tmp_path, monkeypatch, capsys):
    class Pretended(Ranks):
        def agree(self, function):
            return function()

    class Joined:
        def __enter__(self):
            return Pretended(Shard(0, 2))

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(meta_train, "joined", Joined)
    assert main(["meta-train", "--preset", "rl2", "--out", str(tmp_path / "policy")]) == 2
    assert "trained by one process" in capsys.readouterr().err
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert main(["list"]) == 2
    assert "only meta-train" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["list"]) == 2
    assert capsys.readouterr().err == ""


def test_noise_of_a_part_is_independent_of_how_many_parts_there_are():
    """Each of four learners gets the same numbers alone, by twos, and all together."""
    together = derive_noise(0, "tasks").uniform(4, 3)
    for count in (2, 4):
        for index in range(count):
            noise = Noise(derive_seed(0, "tasks"), shard=Shard(index, count))
            assert torch.equal(noise.uniform(4 // count, 3), together.chunk(count)[index])
