"""Meta-training cannot be lost: killed, damaged or out of disk, it goes on as if nothing had happened."""

import contextlib
import csv
import errno
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from learned_opt.algorithms import A2C, inner
from learned_opt.analysis.result_file import read_results
from learned_opt.cli import main
from learned_opt.files import write_atomically
from learned_opt.meta.config import run_config
from learned_opt.meta.estimators.presentation import Presentation
from learned_opt.meta.initial_rule import new_rule
from learned_opt.meta.trainer import MetaTrainer
from learned_opt.rl2.config import InContextConfig, TrialValidation
from learned_opt.rl2.trainer import InContextTrainer
from learned_opt.runs.checkpoint import (
    KEPT,
    MAGIC,
    CheckpointSchedule,
    check_fits,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
    step_of,
)
from learned_opt.runs.config_file import changed, plain, written
from learned_opt.runs.lock import LOCK, exclusive
from learned_opt.runs.metrics import MetricsLog, read_rows
from learned_opt.tasks import FAMILIES

TINY = run_config(
    {
        "families": ("navigation2d", "bandit"),
        "rule": {"hidden_size": 3},
        "meta_batch_size": 2,
        "batches_per_family": 1,
        "estimator": {"unroll_length": 2, "outer_num_envs": 1},
        "horizon": {"min": 4, "max": 8},
        "meta_steps": 36,
        "validation": {"every": 7, "num_tasks": 2, "num_updates": 2},
        "checkpoint": {"every": 4},
        "inner": A2C(hidden_size=4, num_envs=2, num_steps=4),
    }
)
SHORT = changed(TINY, meta_steps=6, validation={"every": 3}, checkpoint={"every": 2})
POLICY = InContextConfig(
    episodes=4,
    hidden_size=4,
    num_trials=4,
    meta_steps=30,
    validation=TrialValidation(every=7, num_tasks=4),
    checkpoint=CheckpointSchedule(every=4),
)
CLOCK = ("seconds",)


def table(path):
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if k not in CLOCK} for row in csv.DictReader(file)]


def outcome(folder):
    """Everything that a run leaves and that does not tell the time."""
    tables = [folder / name for name in ("metrics.csv", "validations.csv") if (folder / name).exists()]
    saved = load_checkpoint(folder, "cpu")
    artifacts = [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]
    assert artifacts
    assert tables
    return {path.name: table(path) for path in tables}, artifacts, flat({**saved, "seconds": 0})


def flat(value):
    """A checkpoint's content as something that == compares."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: flat(each) for key, each in value.items()}
    return [flat(each) for each in value] if isinstance(value, (list, tuple)) else value


class Stopper:
    """Ask to stop at a meta-step."""

    def __init__(self, at, number=signal.SIGINT):
        self.at, self.number = at, number

    def stepped(self, step, rate, diverged):
        if step == self.at:
            os.kill(os.getpid(), self.number)

    def validated(self, step, scores):
        pass


def shaken(config, folder, source, kinds, programs):
    """Run, stopped in another process at random moments by signals of these kinds, to the end.

    Returns:
        How many times it was stopped in the middle.
    """
    path = folder.with_suffix(".toml")
    path.write_bytes(written(plain(config)))
    program = "from learned_opt.cli import run; print('ready', flush=True); run()"
    command = ["-c", program, "meta-train", "--out", folder, "--threads", "1", "--config", path]
    tries = iter(kinds)
    for stopped in range(4 * len(kinds) + 4):
        # Killed before its settings were written, there is nothing to resume.
        resume = ["--resume"] if (folder / "config.toml").exists() else []
        number = next(tries, None)
        process = programs.start(*command, *resume, cwd=folder.parent)
        while programs.running(0.01) and not programs.out.read_bytes().startswith(b"ready\n"):
            pass
        if number is not None:
            _wait_for(newest(folder) + source.randrange(-3, 9), folder, programs)
            time.sleep(source.uniform(0.0, 0.3))
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        done = programs.completed(timeout=120)
        if done.returncode == 0:
            return stopped
        assert done.returncode in (-signal.SIGKILL, -signal.SIGTERM, 130), done.stderr
        assert "Traceback" not in done.stderr, done.stderr
    raise AssertionError("it never came to its end")


def newest(folder):
    """The meta-step of the latest checkpoint, 0 before the first."""
    return max((step_of(path) for path in checkpoints(folder)), default=0)


def _wait_for(step, folder, programs):
    """Until a checkpoint of this meta-step or a later one is there, or the program has ended."""
    while newest(folder) < step and programs.running(0.01):
        pass


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Runs that nothing ever stopped."""
    folder = tmp_path_factory.mktemp("straight")
    torch.set_num_threads(1)
    MetaTrainer(TINY, folder / "rule").run()
    InContextTrainer(POLICY, folder / "policy").run()
    return folder


@pytest.mark.parametrize(
    ("which", "config", "kinds"),
    [
        ("rule", TINY, [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL]),
        ("policy", POLICY, [signal.SIGKILL, signal.SIGTERM]),
    ],
)
def test_a_run_that_was_killed_ends_byte_for_byte_like_one_that_was_not(
    which, config, kinds, straight, run_python, tmp_path
):
    shaken(config, tmp_path / "run", random.Random(1), kinds, run_python)
    assert outcome(tmp_path / "run") == outcome(straight / which)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_no_kill_at_any_moment_changes_what_is_learned(seed, straight, run_python, tmp_path):
    source, hit = random.Random(seed), 0
    for which, config in (("rule", TINY), ("policy", POLICY)):
        kinds = [
            source.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)) for _ in "123456"
        ]
        hit += shaken(config, tmp_path / which, source, kinds, run_python)
        assert outcome(tmp_path / which) == outcome(straight / which)
    assert hit >= 1  # some may come after the end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_at_the_end_of_the_present_meta_step(number, straight, tmp_path):
    for at in (1, 9, 30):
        resume = at > 1
        stopped = MetaTrainer(TINY, tmp_path / "run", resume=resume).run(Stopper(at, number))
        assert stopped.interrupted
        assert stopped.step == at
    MetaTrainer(TINY, tmp_path / "run", resume=True).run()
    assert outcome(tmp_path / "run") == outcome(straight / "rule")


def test_checkpoints_are_numbered_and_the_last_few_are_kept(tmp_path):
    MetaTrainer(changed(SHORT, checkpoint={"every": 1}), tmp_path / "run").run()
    names = [path.name for path in checkpoints(tmp_path / "run")]
    assert names == [f"checkpoint-000000{step}.ckpt" for step in (6, 5, 4)]
    assert len(names) == KEPT


def test_slow_meta_steps_are_checkpointed_by_the_clock(tmp_path):
    config = changed(SHORT, checkpoint={"every": 1000, "minutes": 0.0})
    found = []

    class Watcher(Stopper):
        def stepped(self, step, rate, diverged):
            found.append([path.name for path in checkpoints(tmp_path / "run")])

    MetaTrainer(config, tmp_path / "run").run(Watcher(0))
    assert found[0] == []
    assert found[3] == [f"checkpoint-000000{step}.ckpt" for step in (3, 2, 1)]


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "truncated":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = bytearray()
    elif how == "a bit flipped":
        data[len(data) // 2] ^= 16
    else:
        data[len(MAGIC)] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["truncated", "empty", "a bit flipped", "its checksum"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(how, straight, tmp_path, caplog):
    run = tmp_path / "run"
    MetaTrainer(TINY, run).run(Stopper(30))
    latest, earlier, _ = checkpoints(run)
    damage(latest, how)
    trainer = MetaTrainer(TINY, run, resume=True)
    (warning,) = caplog.messages
    assert latest.name in warning
    assert earlier.name in warning
    assert "\n" not in warning
    assert trainer.step == 28
    trainer.run()
    assert outcome(run) == outcome(straight / "rule")


def test_if_all_checkpoints_are_damaged_one_sentence_says_so(tmp_path, capsys):
    run = tmp_path / "run"
    MetaTrainer(SHORT, run).run()
    for path in checkpoints(run):
        damage(path, "a bit flipped")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert main(["meta-train", "--out", str(run), "--resume"]) == 2
    assert f"all 3 checkpoints in {run} are damaged" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_damaged_tables_keep_the_rows_before_the_damage(tmp_path):
    values = {"reward": 1.0, "gradient_norm": 1.0, "meta_gradient_norm": 1.0, "diverged": 0.0}
    with MetricsLog(tmp_path) as log:
        for step in range(1, 13):
            log.step(step, "bandit", values)
    path = tmp_path / "metrics.csv"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for rows in range(12):
        path.write_bytes(b"".join(lines[: rows + 1]) + lines[rows + 1][:9])
        assert [int(row["meta_step"]) for row in read_rows(path)] == list(range(1, rows + 1))
    path.write_bytes(whole + b"\0" * 50)
    assert len(read_rows(path)) == 12
    assert len(read_rows(path, 5)) == 5


# --- disks and folders ------------------------------------------------------------------------------


class FullDisk:
    """Makes writing fail as a full disk does, while `full`."""

    def __init__(self, monkeypatch):
        self.full, self.sync = False, os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, descriptor):
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.sync(descriptor)


def test_a_full_disk_in_training_costs_a_warning_and_no_step(straight, tmp_path, monkeypatch, caplog):
    disk, run = FullDisk(monkeypatch), tmp_path / "run"

    class Filler(Stopper):
        def stepped(self, step, rate, diverged):
            disk.full = 10 <= step <= 25
            if disk.full:
                assert load_checkpoint(run, "cpu")["step"] == 8
                assert not list(run.glob("*.partial"))

    MetaTrainer(TINY, run).run(Filler(0))
    assert outcome(run) == outcome(straight / "rule")
    assert any("No space left on device" in line and "goes on" in line for line in caplog.messages)
    assert not any("\n" in line for line in caplog.messages)


def test_a_disk_that_stays_full_is_one_sentence_and_the_earlier_checkpoint_stays(
    straight, tmp_path, monkeypatch, capsys
):
    disk, run = FullDisk(monkeypatch), tmp_path / "run"

    class Filler(Stopper):
        def stepped(self, step, rate, diverged):
            disk.full = step >= 10

    with pytest.raises(OSError, match="make room") as info:
        MetaTrainer(TINY, run).run(Filler(0))
    assert "\n" not in str(info.value)
    disk.full = False
    assert not list(run.glob("*.partial"))
    assert load_checkpoint(run, "cpu")["step"] == 8
    MetaTrainer(TINY, run, resume=True).run()
    assert outcome(run) == outcome(straight / "rule")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("may not mount file systems here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full_leaves_nothing_half_written(small_disk, tmp_path, straight):
    run = small_disk / "run"
    MetaTrainer(TINY, run).run(Stopper(8))
    with contextlib.suppress(OSError), open(small_disk / "ballast", "wb", buffering=0) as ballast:
        while ballast.write(b"x" * 4096):
            pass
    with pytest.raises(OSError, match=r"cannot write|could not be written"):
        MetaTrainer(TINY, run, resume=True).run()
    assert not list(run.glob("*.partial"))
    assert load_checkpoint(run, "cpu")["step"] == 8
    (small_disk / "ballast").unlink()
    for path in checkpoints(run)[1:]:
        path.unlink()
    stopped = MetaTrainer(TINY, run, resume=True).run(Stopper(12))
    assert stopped.step == 12


def test_writing_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    FullDisk(monkeypatch).full = True
    with pytest.raises(OSError, match=r"cannot write .*file \(No space left on device\)"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    monkeypatch.undo()
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(tmp_path, capsys):
    """Root writes where permissions forbid it, but nobody makes a folder below a file."""
    (tmp_path / "file").write_text("")
    config = tmp_path / "tiny.toml"
    config.write_text(written(plain(SHORT)).decode())
    out = tmp_path / "file" / "run"
    assert main(["meta-train", "--config", str(config), "--out", str(out)]) == 2
    error = capsys.readouterr().err.strip()
    assert "cannot make" in error
    assert "\n" not in error


def test_a_read_only_folder_is_refused_in_one_sentence(tmp_path, capsys):
    if os.geteuid() == 0:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(tmp_path)], capture_output=True
        )
        if mounted.returncode:
            pytest.skip("root writes everywhere, and may not mount file systems here")
    else:
        tmp_path.chmod(0o555)
    try:
        with pytest.raises(OSError, match=r"cannot make|cannot write") as info:
            MetaTrainer(SHORT, tmp_path / "run")
        assert "\n" not in str(info.value)
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", str(tmp_path)], check=True)
        else:
            tmp_path.chmod(0o755)


# --- two at once ------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from learned_opt.runs.lock import exclusive
with exclusive(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_two_runs_never_share_a_folder_and_the_lock_dies_with_its_holder(tmp_path):
    run = tmp_path / "run"
    MetaTrainer(SHORT, run).run(Stopper(2))
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(run)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        before = {path.name: path.read_bytes() for path in run.iterdir()}
        with pytest.raises(FileExistsError, match="another run is at work"):
            MetaTrainer(SHORT, run, resume=True)
        assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    finally:
        holder.kill()
        holder.communicate()
    assert MetaTrainer(SHORT, run, resume=True).run().step == 6


def test_a_run_that_another_has_overtaken_is_refused(tmp_path):
    run = tmp_path / "run"
    MetaTrainer(SHORT, run).run(Stopper(1))
    late = MetaTrainer(SHORT, run, resume=True)
    MetaTrainer(SHORT, run, resume=True).run()
    done = (run / "metrics.csv").read_bytes()
    with pytest.raises(FileExistsError, match="meanwhile"):
        late.run()
    assert (run / "metrics.csv").read_bytes() == done


def test_two_comparisons_never_share_a_folder(tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    with exclusive(out):
        options = (
            "--families bandit --baselines adam --num-tasks 2 --num-tuning-tasks 1 "
            "--num-updates 2 --num-evals 2"
        )
        assert main(["compare", "--out", str(out), *options.split()]) == 2
    assert "another run is at work" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [LOCK]


# --- runs that were stopped at awkward moments ------------------------------------------------------


def test_a_run_killed_before_its_first_checkpoint_begins_again(straight, tmp_path):
    run = tmp_path / "run"
    MetaTrainer(TINY, run)  # its settings are written, and nothing else
    (run / "config.toml.123-0123abcd.partial").write_text("half")
    with pytest.raises(FileExistsError, match="--resume"):
        MetaTrainer(TINY, run)
    with pytest.raises(ValueError, match="hidden"):
        MetaTrainer(changed(TINY, rule={"hidden_size": 5}), run, resume=True)
    MetaTrainer(TINY, run, resume=True).run()
    assert not list(run.glob("*.partial"))
    assert outcome(run) == outcome(straight / "rule")


def test_a_run_stopped_at_once_keeps_its_first_validation(straight, tmp_path):
    run = tmp_path / "run"

    class Early(Stopper):
        def validated(self, step, scores):
            if step == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    assert MetaTrainer(TINY, run).run(Early(-1)).step == 0
    MetaTrainer(TINY, run, resume=True).run()
    assert outcome(run) == outcome(straight / "rule")


def test_a_stage_may_move_with_the_rule_that_it_starts_from(tmp_path):
    """Paths differ when a folder is moved or named from elsewhere; the file's hash tells."""
    MetaTrainer(SHORT, tmp_path / "first").run()
    config = changed(
        SHORT,
        rule={"kind": "saved", "init_from": str(tmp_path / "first" / "rule.safetensors")},
    )
    MetaTrainer(config, tmp_path / "second").run(Stopper(2))
    (tmp_path / "first").rename(tmp_path / "moved")
    moved = changed(config, rule={"kind": "saved", "init_from": str(tmp_path / "moved" / "rule.safetensors")})
    trainer = MetaTrainer(moved, tmp_path / "second", resume=True)
    assert trainer.step == 2
    MetaTrainer(replace(SHORT, seed=1), tmp_path / "other").run()
    with pytest.raises(ValueError, match="another rule"):
        MetaTrainer(
            changed(
                config, rule={"kind": "saved", "init_from": str(tmp_path / "other" / "rule.safetensors")}
            ),
            tmp_path / "second",
            resume=True,
        )


@pytest.mark.slow
def test_an_ablation_that_was_killed_goes_on(tmp_path):
    path = tmp_path / "ablation.toml"
    path.write_text(
        written(
            {**plain(SHORT), "variants": {"full": {}, "blind": {"rule": {"ablated_features": ["time"]}}}}
        ).decode()
    )
    options = ["--num-tasks", "2", "--num-updates", "15", "--threads", "1"]
    command = ["ablate", "--config", str(path), *options, "--out"]
    program = "import sys; from learned_opt.cli import run; print('ready', flush=True); run()"
    source = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", program, *command, str(tmp_path / "killed")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(source.uniform(0.1, 1.5))
        process.kill()
        process.communicate()
    if not (tmp_path / "killed" / "results.json.gz").exists():
        assert main([*command, str(tmp_path / "killed")]) == 0
    assert main([*command, str(tmp_path / "straight")]) == 0
    for variant in ("full", "blind"):
        one, other = (
            (tmp_path / name / "variants" / variant / "rule.safetensors").read_bytes()
            for name in ("killed", "straight")
        )
        assert one == other
    families = [
        read_results(tmp_path / name / "results.json.gz", "comparison")["families"]
        for name in ("killed", "straight")
    ]
    assert families[0] == families[1]


@pytest.mark.parametrize(
    ("family", "objective"),
    [
        *((family, "a2c") for family in sorted(FAMILIES)),
        *((family, "reinforce") for family in ("gridworld", "lqr")),
        *((family, "dqn") for family in ("gridworld", "catch")),
    ],
)
def test_a_group_of_any_family_goes_on_from_its_checkpoint(family, objective, tmp_path):
    """Whatever a group has become still fits a fresh one of the same seed, and both then do the same."""
    options = {
        "a2c": {"num_steps": 4},
        "reinforce": {"normalize_advantage": "none"},
        "dqn": {"num_steps": 4, "batch_size": 4},
    }[objective]
    learner = replace(inner(objective), hidden_size=2, num_envs=2, **options)
    outer = None if objective == "reinforce" else 1
    config = changed(SHORT, families=(family,), inner=learner, estimator={"outer_num_envs": outer})
    rule = new_rule(config)
    view = Presentation(roles=True, critic_first=False)
    ours, theirs = (config.group(family, rule, seed=0, presentation=view) for _ in range(2))
    for _ in range(2):
        ours.advance(rule)
    save_checkpoint(tmp_path, {"step": 2, "group": ours.state_dict()})
    saved = load_checkpoint(tmp_path, "cpu")["group"]
    check_fits(theirs.state_dict(), saved, family)
    theirs.load_state_dict(saved)
    one, other = ours.advance(rule), theirs.advance(rule)
    assert flat(one.meta_gradient) == flat(other.meta_gradient)
    assert one.metrics == other.metrics
    assert flat(ours.state_dict()) == flat(theirs.state_dict())
