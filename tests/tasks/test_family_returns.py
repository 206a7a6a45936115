"""What families return is run, alike compiled and in torch, or refused in one sentence; it never crashes.

LEARNED_OPT_EXAMPLES=10000 tries as many random families as that, others each time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from learned_opt.algorithms import inner
from learned_opt.kernels import native
from learned_opt.tasks import BatchedFamily, TaskEnv, TaskVectorEnv, Transition
from learned_opt.tasks.inspection import SIZES, inspect
from learned_opt.tasks.promises import NUMBERS, sampled_tasks
from learned_opt.tasks.random import derive_noise
from learned_opt.tasks.references import random_returns, reference_returns

EXAMPLES = int(os.environ.get("LEARNED_OPT_EXAMPLES", "200"))

PLACES = {
    "a task": "sample_tasks",
    "a constant": "constants",
    "start": "initial_state",
    "observation": "observe",
    "state": "transition",
    "reward": "transition",
    "terminated": "transition",
    "reference": "reference_returns",
    "random": "random_returns",
}
"""Tensors that a family returns, and the method that returns each."""

ODD = (
    *(torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.uint16, torch.uint32, torch.uint64),
    torch.quint8,
)
"""Types that nothing is to be computed from."""


@dataclass(frozen=True)
class Change:
    """What becomes of one of a family's tensors: its shape, type, device, numbers or layout is another."""

    place: str
    kind: str
    detail: Any = None

    @property
    def method(self):
        return PLACES[self.place]

    def __call__(self, right):
        """The tensor in place of the right one."""
        return getattr(self, f"_{self.kind}")(right)

    def _shape(self, right):
        how, number = self.detail
        axis = number % right.dim()
        if how == "one":
            return right[tuple(slice(0, 1) if k == axis else slice(None) for k in range(right.dim()))]
        if how == "dropped":
            return right.select(axis, 0)
        if how == "added":
            return right.unsqueeze(number % (right.dim() + 1))
        if how == "swapped":
            return right.transpose(axis, (axis + 1) % right.dim())
        if how == "flat":
            return right.flatten()
        if how == "doubled":
            return torch.cat((right, right), axis)
        return right.new_zeros(tuple(number // 7**k % 7 for k in range(number % 5)))

    def _type(self, right):
        if self.detail is torch.quint8:
            return torch.quantize_per_tensor(right.float(), 0.1, 10, torch.quint8)
        return right.to(self.detail)

    def _device(self, right):
        return right.to("meta")

    def _numbers(self, right):
        number, everywhere = self.detail
        changed = (right.double() if number == 1e39 else right.float()).clone(
            memory_format=torch.contiguous_format
        )
        changed.view(-1)[slice(None) if everywhere else slice(0, 1)] = number
        return changed

    def _thing(self, right):
        return {
            "None": None,
            "float": 1.0,
            "numpy": right.numpy(),
            "list": right.tolist(),
            "sparse": right.to_sparse(),
            "nested": torch.nested.nested_tensor([right.float(), right.float()]),
            "parameter": torch.nn.Parameter(right.float()),
        }[self.detail]

    def _layout(self, right):
        if self.detail == "strided":
            return torch.stack((right, right), -1)[..., 0]
        if self.detail == "reversed":
            return right.transpose(0, -1).contiguous().transpose(0, -1)
        return right[:1].expand_as(right)


CHANGES = {
    "shape": st.tuples(
        st.sampled_from(["one", "dropped", "added", "swapped", "flat", "doubled", "any"]),
        st.integers(0, 7**5),
    ),
    "type": st.sampled_from(NUMBERS + ODD),
    "device": st.none(),
    "numbers": st.tuples(
        st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e39, 0.5]), st.booleans()
    ),
    "thing": st.sampled_from(["None", "float", "numpy", "list", "sparse", "nested", "parameter"]),
    "layout": st.sampled_from(["strided", "reversed", "expanded"]),
}


@st.composite
def changes(draw):
    kind = draw(st.sampled_from([*CHANGES, "shape", "type", "layout", "layout"]))
    change = Change(draw(st.sampled_from(list(PLACES))), kind, draw(CHANGES[kind]))
    assume(change.detail != "None" or change.place not in ("reference", "random"))  # which they may be
    return change


OBJECTIVES: dict[str, dict[str, Any]] = {
    "a2c": {"num_steps": 4},
    "ppo": {
        "num_steps": 4,
        "num_minibatches": 2,
        "normalize_observations": False,
        "normalize_rewards": False,
    },
    "reinforce": {"baseline": False},
    "dqn": {"num_steps": 4, "batch_size": 4},
}
"""Learners of each kind, as small as can be."""


class Drift(BatchedFamily):
    """A point drifts by its task's speed; what it returns may be changed."""

    name = "drift"
    horizon = 5
    defaults = {"speed": 0.5}  # noqa: RUF012
    train_range = {"speed": (0.25, 0.75)}  # noqa: RUF012
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, *changed, since=0):
        self.changed, self.since, self.answers = changed, since, 0

    def told(self, place, right):
        for change in self.changed:
            if change.place == place and self.since:
                self.answers += 1
            if change.place == place and self.answers >= self.since and isinstance(right, torch.Tensor):
                right = change(right)
        return right

    def sample_tasks(self, batch, noise, *, ood=False):
        tasks = super().sample_tasks(batch, noise, ood=ood)
        return {"speed": self.told("a task", tasks["speed"])}

    def constants(self, tasks):
        return {**tasks, "speed": self.told("a constant", tasks["speed"])}

    def initial_state(self, constants, environments, noise):
        return self.told("start", noise.uniform(len(constants["speed"]), environments, 2))

    def observe(self, constants, state):
        return self.told("observation", state * 0.5)

    def transition(self, constants, state, action, noise):
        moved = state * (1 - 0.1 * constants["speed"].unsqueeze(-1))
        reward = moved.sum(-1) + 0.1 * action
        ended = moved[..., 0] > 0.8
        return Transition(
            self.told("state", moved), self.told("reward", reward), self.told("terminated", ended)
        )

    def reference_returns(self, tasks, noise):
        return self.told("reference", tasks["speed"][:, 0] + 5)

    def random_returns(self, tasks, noise):
        return self.told("random", tasks["speed"][:, 0])


def lived(family, batch, environments, objective):
    """What comes of two updates, an evaluation and the scores' anchors, or the sentence that refuses them."""
    try:
        noise = derive_noise(0, "lived")
        config = replace(inner(objective), hidden_size=4, num_envs=environments, **OBJECTIVES[objective])
        learner = config.learner(family, batch, noise)
        parameters = learner.initial_parameters()
        results = [learner.gradient(parameters).inner for _ in range(2)]
        results += [learner.experience(parameters, 4)[0].rewards]
        results += [learner.evaluate(parameters, 2, derive_noise(1, "judged")).returns]
        tasks = sampled_tasks(family, batch, noise)
        results += [reference_returns(family, tasks, noise), random_returns(family, tasks, noise)]
    except ValueError as refusal:
        return str(refusal)
    assert [len(result) for result in results] == [batch] * len(results)
    assert results[2].shape == (batch, 4, environments)
    assert results[3].shape == (batch, 2)
    assert results[4].shape == results[5].shape == (batch,)
    return results


def kept(change, batch, environments):
    """Whether what is changed is still what is promised; None where that depends on what uses it.

    Judges play 2 episodes at once, and start states are drawn for 32 steps: shapes have to fit there as well.
    """
    if change.kind in ("device", "thing"):
        return False
    if change.kind == "layout":
        return True
    of_tasks = change.place in ("a task", "a constant")
    of_states = change.place in ("start", "state")
    if change.kind == "shape":
        if of_tasks:
            changed = change(torch.zeros(batch, 1))
            return None if changed.shape[:1] == (batch,) else False
        counts = [environments, 2] + [32 * environments, 64] * (change.place == "start")
        shapes = [(batch, count, 2) for count in counts]
        if change.place in ("reference", "random"):
            shapes = [(batch,)]
        elif change.place in ("reward", "terminated"):
            shapes = [shape[:2] for shape in shapes]
        fits = [change(torch.zeros(shape)).shape == shape for shape in shapes]
        if change.place == "start" and change.detail[0] != "any":
            # States may be of any size, as long as everything else fits it.
            made = change(torch.zeros(shapes[0])).shape
            return None if len(made) == 3 and made[:2] == shapes[0][:2] else False
        return all(fits)
    if change.kind == "type":
        if change.detail in ODD:
            return False
        return None if (of_states or of_tasks) and change.detail is not torch.float32 else True
    number, everywhere = change.detail
    if of_tasks or (of_states and number == 1e39):  # a double, which is of another type as well
        return None
    if change.place == "terminated":
        return False  # none of these is a truth
    some = everywhere or batch == 1 or change.place in ("reference", "random")  # else other tasks are well
    return bool(np.isfinite(np.float32(number))) or not some


def examples(share):
    """Settings of a property that takes a share of all examples."""
    return settings(
        max_examples=max(1, int(share * EXAMPLES)),
        deadline=None,
        database=None,
        derandomize="LEARNED_OPT_EXAMPLES" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )


def is_a_refusal(sentence, *methods):
    return (
        sentence.startswith("family drift: ")
        and "\n" not in sentence
        and sentence.removeprefix("family drift: ").startswith(methods or tuple(PLACES.values()))
    )


@examples(0.5)
@given(
    changed=st.lists(changes(), min_size=1, max_size=2),
    batch=st.integers(1, 3),
    environments=st.integers(1, 4),
    objective=st.sampled_from(list(OBJECTIVES)),
)
@pytest.mark.filterwarnings("ignore")
def test_a_family_is_run_as_in_torch_or_refused_by_name(changed, batch, environments, objective):
    ours = lived(Drift(*changed), batch, environments, objective)
    with native.engine("torch"):
        theirs = lived(Drift(*changed), batch, environments, objective)
    event("refused" if isinstance(ours, str) else "run")
    if isinstance(ours, str):
        assert ours == theirs
        assert is_a_refusal(ours)
    else:
        assert not isinstance(theirs, str), theirs
        for one, other in zip(ours, theirs, strict=True):
            well = one.flatten(1).isfinite().all(1) if one.dim() > 1 else one.isfinite()
            torch.testing.assert_close(one[well], other[well], rtol=1e-3, atol=1e-3)
            sick = [change for change in changed if change.kind == "numbers" and not change.detail[1]]
            assert bool(well[1:].all()) or len(changed) > 1
            assert bool(well.all()) or sick
    if len(changed) == 1:
        expected = kept(changed[0], batch, environments)
        assert expected is None or isinstance(ours, str) != expected, ours
        if expected is False:
            assert is_a_refusal(ours, changed[0].method)


@examples(0.2)
@given(
    change=changes(),
    since=st.integers(2, 8),
    environments=st.integers(1, 4),
    objective=st.sampled_from(list(OBJECTIVES)),
)
@pytest.mark.filterwarnings("ignore")
def test_a_family_that_answers_otherwise_later_is_run_or_refused_by_name(
    change, since, environments, objective
):
    for engine in ("auto", "torch"):
        with native.engine(engine):
            made = lived(Drift(change, since=since), 2, environments, objective)
        assert not isinstance(made, str) or is_a_refusal(made)


@examples(0.2)
@given(change=changes(), copies=st.integers(0, 3), since=st.integers(0, 3))
@pytest.mark.filterwarnings("ignore")
def test_gymnasium_environments_of_a_family_run_or_are_refused_by_name(change, copies, since):
    made = watched(Drift(change, since=since), copies)
    if isinstance(made, str):
        assert is_a_refusal(made)
    else:
        observed, rewards, space = made
        assert {x.shape for x in observed} == {space.shape}
        assert {np.shape(x) for x in rewards} == {(copies,) if copies else ()}
        of_one_task = change.kind == "numbers" and not change.detail[1]
        assert since > 1 or of_one_task or all(np.isfinite(x).all() for x in observed[:2])


@examples(0.1)
@given(change=changes())
@pytest.mark.filterwarnings("ignore")
def test_inspection_finds_a_fault_exactly_where_a_family_is_refused(change):
    found = [finding for finding in inspect(Drift(change)) if finding.broken]
    refused = [isinstance(lived(Drift(change), *size, "a2c"), str) for size in SIZES]
    assert bool(found) == any(refused), (
        found
    )  # at one of its sizes there is a single task, which has to be well


def watched(family, copies):
    """Observations, rewards and observation space of some steps of `copies` environments, or of one."""
    try:
        environment = TaskVectorEnv(family, copies) if copies else TaskEnv(family)
        observed, rewards = [environment.reset(seed=0)[0]], []
        for _ in range(3):
            observation, reward, *_ = environment.step(0 * environment.action_space.sample())
            observed.append(observation)
            rewards.append(reward)
    except ValueError as refusal:
        return str(refusal)
    return observed, rewards, environment.observation_space
