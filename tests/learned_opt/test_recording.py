"""CUDA graphs change how fast meta-training runs, and nothing else."""

import gc
import warnings
from dataclasses import replace

import pytest
import torch

from learned_opt import load_rule
from learned_opt.algorithms import A2C, DQN, PPO, Reinforce
from learned_opt.algorithms.cuda_graphs import Recorder
from learned_opt.algorithms.inner_loop import train
from learned_opt.meta.config import run_config
from learned_opt.meta.estimators.es import EvolutionGroup
from learned_opt.meta.estimators.presentation import Presentation
from learned_opt.meta.estimators.tbptt import TruncatedGroup
from learned_opt.meta.trainer import new_rule
from learned_opt.runs.config_file import changed
from learned_opt.tasks import make_family
from learned_opt.tasks.batched import AHEAD
from learned_opt.tasks.random import derive_noise
from learned_opt.trees import leaves, mapped

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
LEARNER = A2C(num_envs=2, num_steps=8)
SMALL_PPO = PPO(num_envs=2, num_steps=AHEAD, update_epochs=2, num_minibatches=2)


def learner(family="pendulum", device="cpu", config=LEARNER, outer=2):
    return config.learner(make_family(family), 2, derive_noise(0, device=device), outer_num_envs=outer)


def test_trees_are_mapped_in_place():
    tree = {"a": [torch.ones(2), None], "b": (torch.zeros(1), 3)}
    twice = mapped(lambda x, y: x + y, tree, tree)
    assert twice["a"][0].tolist() == [2, 2]
    assert (twice["a"][1], twice["b"][1]) == (None, 3)
    assert [leaf for leaf in leaves(tree) if not isinstance(leaf, torch.Tensor)] == [None, 3]


def test_nothing_is_recorded_on_the_cpu():
    calls = []
    recorder = Recorder(learner())
    for _ in range(4):
        recorder(lambda x: calls.append(x), torch.ones(1))
    assert len(calls) == 4


def test_each_part_of_a_rollout_is_recorded_by_itself_at_its_third_turn(monkeypatch):
    mine = learner(config=SMALL_PPO)
    recorder = Recorder(mine)
    recorder._possible = True
    watched, recorded, replayed = [], [], []

    class Tape:
        def __init__(self, function):
            self.function = function

        def replay(self, _, inputs):
            replayed.append(mine.phase)
            return self.function(*inputs)

    def watch(function, inputs):
        watched.append(mine.phase)
        return function(*inputs), True

    def record(_, function, inputs):
        recorded.append(mine.phase)
        return Tape(function)

    monkeypatch.setattr("learned_opt.algorithms.cuda_graphs._watched", watch)
    monkeypatch.setattr("learned_opt.algorithms.cuda_graphs._record", record)
    theta = mine.initial_parameters()
    for _ in range(20):
        recorder(mine.gradient, theta)
    # The first turn of the first part is another: there was no rollout in the learner's state yet.
    assert watched == [1, 2, 3, 0]
    assert recorded == [1, 2, 3, 0]
    assert replayed == [1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3][: len(replayed)]
    assert len(replayed) == 20 - 1 - 2 * 4


def test_what_cannot_be_recorded_runs_as_it_is_for_good(monkeypatch):
    recorder = Recorder(learner())
    recorder._possible = True
    monkeypatch.setattr(
        "learned_opt.algorithms.cuda_graphs._watched", lambda function, inputs: (function(*inputs), False)
    )
    calls = []
    for _ in range(5):
        recorder(lambda x: calls.append(x), torch.ones(1))
    assert len(calls) == 5


CONFIG = run_config(
    {
        "meta_batch_size": 8,
        "rule": {"hidden_size": 8},
        "estimator": {"unroll_length": 8},
        "horizon": {"min": 16, "max": 32},
        "device": "cuda",
    }
)
EVOLVED = changed(
    CONFIG,
    estimator={"kind": "es", "evolved_parameters": "head", "unroll_length": CONFIG.estimator.unroll_length},
    inner=LEARNER,
    meta_optimizer={"meta_lr": 0.02},
)


@NEEDS_CUDA
@pytest.mark.parametrize("family", ["cartpole", "pendulum", "gridworld"])
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (TruncatedGroup, changed(CONFIG, inner=LEARNER, estimator={"outer_num_envs": 2})),
        (
            TruncatedGroup,
            changed(
                CONFIG,
                inner=LEARNER,
                estimator={"outer_num_envs": 2, "second_order": True, "unroll_length": 4},
            ),
        ),
        (EvolutionGroup, EVOLVED),
    ],
    ids=["truncated", "second order", "evolution"],
)
def test_recorded_windows_are_those_that_run(kind, config, family):
    torch.cuda.set_device(0)
    ends = []
    for recorded in (True, False):
        rule = new_rule(config).to("cuda")
        view = Presentation(roles=True, critic_first=False)
        group = kind(family, replace(config, families=(family,)), rule, seed=0, presentation=view)
        if not recorded:
            group.recorder = Recorder(group.learner, active=False)
        windows = [group.advance(rule) for _ in range(7)]
        assert bool(group.recorder._tapes) == recorded
        state = group.state_dict()
        found = [leaf for leaf in leaves(state) if isinstance(leaf, torch.Tensor)]
        ends.append([*found, *(value for window in windows for value in window.meta_gradient.values())])
    closeness = {"rtol": 1e-4, "atol": 1e-6} if config.second_order else {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(*ends, **closeness)


@NEEDS_CUDA
@pytest.mark.parametrize(
    ("config", "tapes"),
    [
        (A2C(num_envs=2, num_steps=8), 1),
        (A2C(num_envs=2, num_steps=AHEAD, normalize_observations=True, normalize_rewards=True), 1),
        (SMALL_PPO, 4),
        (Reinforce(num_envs=2), 0),
        (DQN(num_envs=2, num_steps=2), 0),
    ],
    ids=["a2c", "normalised", "ppo", "reinforce", "dqn"],
)
def test_recorded_lives_are_those_that_run(config, tapes, monkeypatch):
    rule = load_rule("default").to("cuda")
    made, ends = [], []
    for active in (True, False):

        def noted(learner, active=active):
            made.append(Recorder(learner, active=active))
            return made[-1]

        monkeypatch.setattr("learned_opt.algorithms.inner_loop.Recorder", noted)
        mine = learner("gridworld", "cuda", config)
        life = train(mine, rule, updates=24, num_evals=3, eval_seed=0, eval_episodes=2)
        ends.append([life.returns, life.last])
    torch.testing.assert_close(*ends, rtol=0.0, atol=0.0)
    assert (len(made[0]._tapes) >= tapes) if tapes else not made[0]._tapes
    assert not made[1]._tapes


@NEEDS_CUDA
def test_what_waits_for_the_gpu_is_not_recorded():
    calls = []
    recorder = Recorder(learner(device="cuda"))

    def function(x):
        calls.append(float(x.sum()))
        return x + 1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(3):
            recorder(function, torch.full((1,), float(number), device="cuda"))
    assert calls == [0.0, 1.0, 2.0]


@NEEDS_CUDA
def test_connected_inputs_are_not_recorded():
    recorder = Recorder(learner(device="cuda"))
    x = torch.ones(1, device="cuda", requires_grad=True)
    for _ in range(3):
        (slope,) = torch.autograd.grad(recorder(lambda y: 3 * y, 2 * x), x)
        assert slope.item() == 6
    assert not recorder._tapes


@NEEDS_CUDA
def test_nothing_is_collected_while_recording():
    """A graph that dies while another is recorded spoils it: a group's, when its learners' turn is over."""
    recorder = Recorder(learner(device="cuda"))
    while_recording = []

    def function(x):
        if torch.cuda.is_current_stream_capturing():
            while_recording.append(gc.isenabled())
        return x + 1

    for _ in range(3):
        recorder(function, torch.zeros(1, device="cuda"))
    assert while_recording == [False]
    assert gc.isenabled()
