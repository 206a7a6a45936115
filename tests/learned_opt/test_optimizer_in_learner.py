"""Dropped in, the shipped rule learns as it does inside the batched learner: the same curves."""

import pytest
import torch

from learned_opt import LearnedOptimizer, load_rule
from learned_opt.algorithms import A2C
from learned_opt.algorithms.a2c import ActorCriticLearner
from learned_opt.algorithms.inner_loop import train
from learned_opt.kernels import native
from learned_opt.rules.base import StepInput, UpdateRule
from learned_opt.tasks import make_family
from learned_opt.tasks.random import derive_noise

BATCH, UPDATES = 3, 12


class Dropped(UpdateRule):
    """Each learner's tensors as parameters of an optimizer of its own, stepped from their gradients."""

    def __init__(self, rule):
        super().__init__()
        self.rule, self.learning_rate = rule, rule.learning_rate

    def config(self):
        return {}

    def init_state(self, layout, batch, **options):
        self.optimizers = None
        return {}

    def update(self, x, state):
        gradient, parameters, _, layout, total_steps, *_ = x
        before = layout.split(parameters)
        if self.optimizers is None:
            self.tensors = [
                {name: torch.nn.Parameter(value[row].clone()) for name, value in before.items()}
                for row in range(len(parameters))
            ]
            self.optimizers = [
                LearnedOptimizer(tensors.values(), rule=self.rule, total_steps=int(total_steps[row]))
                for row, tensors in enumerate(self.tensors)
            ]
        slopes = layout.split(gradient)
        for row, (tensors, optimizer) in enumerate(zip(self.tensors, self.optimizers, strict=True)):
            for name, parameter in tensors.items():
                assert torch.equal(parameter.detach(), before[name][row]), name
                parameter.grad = slopes[name][row].clone()
            optimizer.step()
        after = {name: torch.stack([tensors[name].detach() for tensors in self.tensors]) for name in before}
        # train() adds an update to θ, which would round: θ itself is replaced, and 0 added to it.
        parameters.copy_(layout.join(after))
        return torch.zeros_like(parameters), state


class OneByOne(UpdateRule):
    """A rule at each learner by itself: torch rounds a product of one otherwise than of several, and dynamics
    amplify that."""

    def __init__(self, rule):
        super().__init__()
        self.rule, self.learning_rate = rule, rule.learning_rate

    def config(self):
        return {}

    def init_state(self, layout, batch, **options):
        self.states = [self.rule.init_state(layout, 1) for _ in range(batch)]
        return {}

    def update(self, x, state):
        updates = []
        for row, own in enumerate(self.states):
            parts = [each[row : row + 1] if isinstance(each, torch.Tensor) else each for each in x]
            update, self.states[row] = self.rule(StepInput(*parts), own)
            updates.append(update)
        return torch.cat(updates), state


@pytest.mark.parametrize("family", ["cartpole", "pendulum"])
def test_the_shipped_rule_gives_the_same_curves_dropped_in_as_in_the_batched_learner(family):
    rule = load_rule()
    batched = rule if native.library("lstm_step") is not None else OneByOne(rule)
    lives = []
    for each in (batched, Dropped(rule)):
        noise = derive_noise(0, "curves", family)
        learner = ActorCriticLearner(make_family(family), BATCH, noise, A2C(num_envs=8, num_steps=16))
        lives.append(train(learner, each, updates=UPDATES, num_evals=5, eval_seed=1, eval_episodes=4))
    core, dropped = lives
    for name in ("returns", "deterministic_returns"):
        assert torch.equal(getattr(core, name), getattr(dropped, name))
    assert len(core.returns.unique()) > BATCH
