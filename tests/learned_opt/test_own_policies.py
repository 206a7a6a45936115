"""Meta-training on and comparing with policies of one's own."""

import numpy as np
import pytest
import torch
from torch import nn

from learned_opt import Adam
from learned_opt.algorithms import A2C
from learned_opt.analysis.comparison.compare import Method, compare
from learned_opt.analysis.comparison.config import CompareConfig
from learned_opt.artifacts import load_artifact
from learned_opt.meta.config import run_config
from learned_opt.meta.trainer import MetaTrainer
from learned_opt.policies.module import ModulePolicy
from learned_opt.runs.config_file import changed

RUN = run_config(
    {
        "families": ("bandit", "navigation2d"),
        "meta_batch_size": 4,
        "batches_per_family": 1,
        "estimator": {"unroll_length": 3, "outer_num_envs": 2},
        "horizon": {"min": 6, "max": 12},
        "meta_steps": 2,
        "validation": {"every": 2, "num_tasks": 1, "num_updates": 3},
        "checkpoint": {"every": 2},
        "inner": A2C(hidden_size=4, num_envs=2, num_steps=6),
    }
)
ALONE = {"inner": A2C(num_envs=2, num_steps=6)}
RUNS = {
    "tbptt": {"rule": {"hidden_size": 4}},
    "pes": {"rule": {"hidden_size": 4}, "estimator": {"kind": "pes"}, **ALONE},
    "learned start": {"families": ("bandit",), "rule": {"kind": "meta-sgd"}, "learned_init": True},
}


class Agent(nn.Module):
    """A trunk shared by policy and value."""

    def __init__(self, outputs, width=5):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(1, width), nn.ReLU())
        self.actor, self.critic = nn.Linear(width, outputs), nn.Linear(width, 1)

    def forward(self, observations):
        signal = self.trunk(observations)
        return self.actor(signal), self.critic(signal)


def shared_trunk(family):
    return ModulePolicy(family, lambda: Agent(int(family.action_space.n)))


@pytest.mark.parametrize("kind", list(RUNS))
def test_meta_training_takes_policies_by_family_and_goes_on_from_a_checkpoint(kind, tmp_path):
    config, policies = changed(RUN, **RUNS[kind]), {"bandit": shared_trunk}
    trainer = MetaTrainer(config, tmp_path, policies=policies)
    bandit = trainer.groups[0].learner
    assert isinstance(bandit.policy, ModulePolicy)
    assert bandit.layout.size == 5 * 2 + 6 * 10 + 6
    assert all(not isinstance(group.learner.policy, ModulePolicy) for group in trainer.groups[1:])
    before = trainer.groups[0].runs.parameters.clone()
    outcome = trainer.run()
    assert not torch.equal(before, trainer.groups[0].runs.parameters)
    provenance = load_artifact(outcome.path).header["provenance"]
    assert provenance["policies"]["bandit"]["actor.weight"] == [10, 5]
    again = MetaTrainer(config, tmp_path, resume=True, policies=policies)
    assert again.step == 2
    theirs, ours = trainer.groups[0], again.groups[0]
    assert torch.equal(ours.runs.parameters, theirs.runs.parameters)
    assert torch.equal(ours.ready().inner, theirs.ready().inner)


def test_resuming_with_other_policies_is_refused(tmp_path):
    MetaTrainer(RUN, tmp_path, policies={"bandit": shared_trunk}).run()
    with pytest.raises(ValueError, match="saved policies of bandit have 76 parameters and these have"):
        MetaTrainer(RUN, tmp_path, resume=True)


def test_comparisons_take_policies_for_rules_and_baselines_alike():
    config = CompareConfig(
        families=("bandit",),
        num_tasks=3,
        num_updates=30,
        num_evals=3,
        baselines=("sgd",),
        num_tuning_tasks=2,
        num_tuning_updates=2,
        inner=A2C(num_envs=4, num_steps=8),
    )
    asked = []

    def counted(family):
        asked.append(family.name)
        return shared_trunk(family)

    methods = {"adam": Method(Adam(), lr=0.03)}
    own = compare(config, methods, policies={"bandit": counted}).families["bandit"]
    stacked = compare(config, methods).families["bandit"]
    assert asked == ["bandit", "bandit"], "for tuning and for showing"
    assert set(own.methods) == {"adam", "sgd"}
    returns = own.methods["adam"].returns
    assert returns[-1].mean() > returns[0].mean() + 0.1
    assert not np.array_equal(returns, stacked.methods["adam"].returns)


def test_policies_that_nobody_would_use_are_refused(tmp_path):
    config = CompareConfig(families=("bandit",), baselines=())
    methods, stranger = {"adam": Method(Adam())}, {"cartpole": shared_trunk}
    with pytest.raises(ValueError, match="given for cartpole, which is not among the families bandit"):
        compare(config, methods, policies=stranger)
    with pytest.raises(ValueError, match="given for cartpole"):
        MetaTrainer(RUN, tmp_path / "run", policies=stranger)
    with pytest.raises(ValueError, match="leave it out"):
        compare(config, methods, policies={"bandit": shared_trunk}, cache=tmp_path)
