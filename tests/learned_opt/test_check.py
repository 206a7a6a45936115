"""learned-opt check: all that is wrong with a family, and what there is to know of one that is right."""

import sys

import pytest

from learned_opt.cli import main
from learned_opt.kernels import native

FAMILIES = """
import numpy as np
import torch
from gymnasium import spaces
from learned_opt.tasks import BatchedFamily, Transition


class Right(BatchedFamily):
    name, horizon, defaults = "right", 10, {"speed": 0.5}
    train_range, ood_range = {"speed": (0.25, 0.75)}, {"speed": (0.1, 1.0)}
    observation_space = spaces.Box(-5.0, 5.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def initial_state(self, constants, environments, noise):
        return noise.uniform(len(constants["speed"]), environments, 2)

    def observe(self, constants, state):
        return state

    def transition(self, constants, state, action, noise):
        return Transition(state * constants["speed"].unsqueeze(-1), state.sum(-1), state[..., 0] > 10)

    def reference_returns(self, tasks, noise):
        return torch.full((len(tasks["speed"]),), 100.0)


class Sorted(Right):
    def observe(self, constants, state):
        return state.sort(-1).values


class Wrong(Right):
    horizon, train_range = 0, {"sped": (0.25, 0.75)}

    def observe(self, constants, state):
        return state[:1]

    def transition(self, constants, state, action, noise):
        return super().transition(constants, state, action, noise)._replace(reward=state.mean(1))


class Abstract(BatchedFamily):
    name = "abstract"


class Listed(Right):
    train_range = defaults = ["speed"]


class Late(Right):
    horizon = 600

    def transition(self, constants, state, action, noise):
        made = super().transition(constants, state, action, noise)
        if (state[..., 0] < 1e-30).all():
            raise IndexError("too late")
        return made


class Unscored(Right):
    def reference_returns(self, tasks, noise):
        return None
"""


@pytest.fixture
def checked(tmp_path, monkeypatch, capsys):
    (tmp_path / "families_to_check.py").write_text(FAMILIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "families_to_check", raising=False)

    def check(name):
        code = main(["check", name])
        return code, capsys.readouterr().out.splitlines()

    yield check
    sys.modules.pop("families_to_check", None)


def told(lines, first):
    """What stands beside a word in the left column."""
    return [line[20:] for line in lines if line[2:20].strip() == first]


def test_a_family_that_is_right_is_told_as_what_it_is(checked):
    code, lines = checked("families_to_check:Right")
    assert code == 0
    assert lines[0] == "family families_to_check:Right (Right)"
    assert lines[-1] == "usable"
    assert told(lines, "FAULT") == told(lines, "not tried") == []
    assert {"declaration", "sample_tasks", "transition", "reference_returns"} <= set(told(lines, "ok"))
    assert told(lines, "horizon") == ["10"]
    assert told(lines, "action_space") == ["Discrete(2)"]
    assert told(lines, "task: speed") == ["0.5 by default, (0.25, 0.75) in training, (0.1, 1.0) ood"]
    assert told(lines, "task entries") == ["speed (B, 1)"]
    assert told(lines, "reference return")[0].startswith("100, ")
    assert float(told(lines, "random return")[0].split(",")[0]) > 0


@pytest.mark.skipif(native.library("rollout") is None, reason="nothing runs compiled: see learned-opt doctor")
def test_what_keeps_dynamics_in_torch_is_told(checked):
    assert told(checked("families_to_check:Right")[1], "dynamics") == ["compiled"]
    assert told(checked("families_to_check:Sorted")[1], "dynamics") == [
        "in torch: torch.sort is not elementary"
    ]


def test_every_fault_is_told_and_the_command_fails(checked):
    code, lines = checked("families_to_check:Wrong")
    assert code == 1
    faults = told(lines, "FAULT")
    assert [fault.split(" ")[0] for fault in faults] == [
        "horizon",
        "train_range",
        "ood_range",
        "observe",
        "transition",
    ]
    assert "observations of shape (1, 5, 2), and" in faults[3]
    assert "rewards of shape (3, 2), and (B, E) = (3, 5)" in faults[4]
    assert lines[-1] == "not usable: 5 faults, see above"


def test_a_family_without_reference_is_usable_and_says_what_it_cannot_be_used_for(checked):
    code, lines = checked("families_to_check:Unscored")
    assert code == 0
    assert told(lines, "reference return")[0].startswith(
        "none, so that compare and meta-train refuse the family"
    )


def test_a_family_that_fails_late_in_episodes_is_not_usable(checked):
    code, lines = checked("families_to_check:Late")
    assert code == 1
    assert told(lines, "FAULT")[0].endswith("IndexError: too late")


def test_what_is_no_family_yet_is_refused_in_one_line(checked, capsys):
    assert main(["check", "families_to_check:Abstract"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert "families_to_check:Abstract cannot be made: TypeError" in error[0]
    code, lines = checked("families_to_check:Listed")
    assert code == 1
    assert told(lines, "FAULT")[0].startswith("the declaration failed with AttributeError: 'list' object")


@pytest.mark.parametrize("name", ["bandit", "gridworld", "CartPole-v1"])
def test_shipped_families_and_gymnasium_ids_are_usable(name, checked):
    code, lines = checked(name)
    assert code == 0
    assert lines[-1] == "usable"


def test_a_name_that_nothing_has_is_bad_input(capsys):
    assert main(["check", "nothing_of_that_name"]) == 2
    assert "unknown task family" in capsys.readouterr().err
