"""The training loop, of a training that only counts: who trains says what a step is, and no more."""

import csv
import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from learned_opt.runs.checkpoint import CheckpointSchedule, checkpoints, load_checkpoint
from learned_opt.runs.divergence import DivergenceError
from learned_opt.runs.interrupts import interrupts
from learned_opt.runs.loop import MetaStep, TrainingRun, TrainingSettings, ValidationSchedule


class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))


def written(learned, path, provenance):
    torch.save({"weight": learned.weight.data, **provenance}, path)


class Counting(TrainingRun[Weight]):
    artifact, product, criterion, work = "weight.pt", "weight", "height", "additions"
    write = staticmethod(written)

    def __init__(self, folder, *, resume=False, diverged=0.0, scores=None, **changes):
        config = TrainingSettings(10, ValidationSchedule(every=4), CheckpointSchedule(every=3))
        config = replace(config, **changes)
        super().__init__(config, folder, learners=2, remedy="count on your fingers", resume=resume)
        self.learned, self.generator = Weight(), torch.Generator().manual_seed(0)
        self.sick, self.scores = diverged, scores
        self.open()

    def advance(self):
        with torch.no_grad():
            self.learned.weight += torch.rand(2, generator=self.generator)
        return MetaStep("addition", 2, self.sick, {"sum": self.learned.weight.sum().item()})

    def validate(self):
        height = self.learned.weight.sum().item() if self.scores is None else self.scores[self.step]
        return {"width": 1.0, "height": height}

    def provenance(self):
        return {"families": ["addition"]}

    def state_dict(self):
        return {"learned": self.learned.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, saved):
        self.learned.load_state_dict(saved["learned"])
        self.generator.set_state(saved["generator"])


class At:
    """Does something at a meta-step."""

    def __init__(self, step, act):
        self.step, self.act, self.told = step, act, []

    def stepped(self, step, rate, diverged):
        if step == self.step:
            self.act()

    def validated(self, step, scores):
        self.told.append((step, scores))


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def table(path):
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def left(folder):
    saved = load_checkpoint(folder, "cpu")
    tables = [table(folder / name) for name in ("metrics.csv", "validations.csv")]
    return tables, saved["learned"]["weight"].tolist(), torch.load(folder / "weight.pt")["weight"].tolist()


def test_a_run_steps_validates_and_keeps_what_scored_best(tmp_path):
    observer = At(0, None)
    outcome = Counting(tmp_path, scores={0: 0.0, 4: 2.0, 8: 1.0, 10: 0.5}).run(observer)
    assert [step for step, _ in observer.told] == [0, 4, 8, 10]
    assert (outcome.step, outcome.interrupted, outcome.best["height"]) == (10, False, 2.0)
    kept = torch.load(outcome.path)
    assert (kept["meta_steps"], kept["validation"]["height"]) == (4, 2.0)
    assert kept["improvement"] == {
        "improved": True, "told_apart": True, "at_first": 0.0, "best": 2.0, "last": 0.5,
    }  # fmt: skip
    rows = table(tmp_path / "metrics.csv")
    assert [row["meta_step"] for row in rows] == [str(step) for step in range(1, 11)]
    assert [row["additions"] for row in rows][-1] == "20"
    assert list(table(tmp_path / "validations.csv")[0]) == ["meta_step", "height", "width"]


def test_an_interrupted_run_ends_as_one_that_never_stopped(tmp_path):
    Counting(tmp_path / "whole").run()
    for resume, step in ((False, 2), (True, 4), (True, 9), (True, 10)):
        outcome = Counting(tmp_path / "parts", resume=resume).run(At(step, interrupt))
        assert (outcome.interrupted, outcome.step) == (True, step)
    Counting(tmp_path / "parts", resume=True).run()
    assert left(tmp_path / "parts") == left(tmp_path / "whole")


def test_a_second_signal_kills_whichever_it_is():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with interrupts() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop()
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_score_that_is_reached_ends_a_run(tmp_path):
    assert Counting(tmp_path, validation=ValidationSchedule(early_stop_score=0.0)).run().step == 0


def test_checkpoints_come_by_the_step_and_by_the_clock(tmp_path):
    found = {}
    for name, minutes in (("step", 5.0), ("clock", 0.0)):
        folder = tmp_path / name
        Counting(folder, checkpoint=CheckpointSchedule(every=3, minutes=minutes)).run(
            At(8, lambda name=name, folder=folder: found.update({name: checkpoints(folder)[0].name}))
        )
    assert found == {"step": "checkpoint-0000006.ckpt", "clock": "checkpoint-0000007.ckpt"}


def test_a_run_in_which_too_many_diverge_says_what_to_do(tmp_path):
    with pytest.raises(DivergenceError, match=r"stopped at meta-step 10: 100% .*; count on your fingers, or"):
        Counting(tmp_path, diverged=2.0, meta_steps=20).run()
    assert load_checkpoint(tmp_path, "cpu")["step"] == 10
    with pytest.raises(DivergenceError):
        Counting(tmp_path, meta_steps=20, resume=True).run()


def test_what_is_learned_must_stay_finite(tmp_path):
    run = Counting(tmp_path)

    def spoil():
        run.learned.weight.data.fill_(float("nan"))

    with pytest.raises(DivergenceError, match="the weight's own parameters are no longer finite"):
        run.run(At(5, spoil))
    assert load_checkpoint(tmp_path, "cpu")["step"] == 3


def test_a_run_that_goes_on_with_another_torch_says_so(tmp_path, monkeypatch, caplog):
    Counting(tmp_path).run(At(3, interrupt))
    monkeypatch.setattr(torch, "__version__", "1.0")
    Counting(tmp_path, resume=True)
    assert "goes on with other torch than before: numbers may differ" in caplog.text
