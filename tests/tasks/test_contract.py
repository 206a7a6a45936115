"""What a family promises: each breach is one sentence with family, method, what was asked for and given."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from learned_opt.algorithms import A2C
from learned_opt.kernels import native
from learned_opt.policies.mlp import ActorCritic
from learned_opt.rl2.policies import RecurrentPolicy
from learned_opt.rl2.trial import play
from learned_opt.tasks import (
    FAMILIES,
    BatchedFamily,
    Noise,
    TaskEnv,
    TaskVectorEnv,
    Transition,
    make_family,
)
from learned_opt.tasks.inspection import inspect
from learned_opt.tasks.promises import sampled_tasks
from learned_opt.tasks.references import random_returns, reference_returns
from learned_opt.tracing.verify import dynamics_of, why_in_torch


def noise(seed=0):
    return Noise(seed)


class Slope(BatchedFamily):
    """A point slides; tests change what its methods return."""

    name = "slope"
    horizon = 10
    defaults = {"speed": 0.5}  # noqa: RUF012
    train_range = {"speed": (0.25, 0.75)}  # noqa: RUF012
    ood_range = {"speed": (0.1, 1.0)}  # noqa: RUF012
    observation_space = spaces.Box(-5.0, 5.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def initial_state(self, constants, environments, noise):
        return noise.uniform(len(constants["speed"]), environments, 2)

    def observe(self, constants, state):
        return state

    def transition(self, constants, state, action, noise):
        moved = 0.9 * state + 0.1 * action * constants["speed"].unsqueeze(-1)
        return Transition(moved, moved.sum(-1), moved[..., 0] > 10)


def changed(method, change):
    """A family one of whose methods returns something else."""

    def method_of(self, *given, **named):
        return change(getattr(Slope, method)(self, *given, **named))

    return type("Changed", (Slope,), {method: method_of})()


def environments_of(family, batch=3, copies=4):
    source = noise()
    return family.environments(family.sample_tasks(batch, source), copies, source)


BREACHES = {
    "reward (B, 1)": (
        "transition",
        lambda made: made._replace(reward=made.reward[:, :1]),
        r"transition returned rewards of shape \(3, 1\), and \(B, E\) = \(3, 4\) is asked for",
    ),
    "reward (B,)": (
        "transition",
        lambda made: made._replace(reward=made.reward[:, 0]),
        r"transition returned rewards of shape \(3,\), and \(B, E\) = \(3, 4\) is asked for",
    ),
    "reward (E, B)": (
        "transition",
        lambda made: made._replace(reward=made.reward.T),
        r"transition returned rewards of shape \(4, 3\)",
    ),
    "terminated (B, 1)": (
        "transition",
        lambda made: made._replace(terminated=made.terminated[:, :1]),
        r"transition returned terminated of shape \(3, 1\), and \(B, E\) = \(3, 4\) is asked for",
    ),
    "terminated in place of rewards": (
        "transition",
        lambda made: made._replace(reward=made.terminated, terminated=made.reward),
        "transition returned terminated of numbers other than 0 and 1",
    ),
    "states (B, S)": (
        "initial_state",
        lambda state: state[:, 0],
        r"initial_state returned states of shape \(3, 2\), and \(B, E, S\) = \(3, 4, \*\) is asked for",
    ),
    "states (1, E, S)": (
        "initial_state",
        lambda state: state[:1],
        r"initial_state returned states of shape \(1, 4, 2\)",
    ),
    "states (B, 1, S)": (
        "initial_state",
        lambda state: state[:, :1],
        r"initial_state returned states of shape \(3, 1, 2\)",
    ),
    "another size of state": (
        "transition",
        lambda made: made._replace(state=made.state[..., :1]),
        r"transition returned states of shape \(3, 4, 1\), and \(B, E, S\) = \(3, 4, 2\) is asked for",
    ),
    "another type of state": (
        "transition",
        lambda made: made._replace(state=made.state.double()),
        "transition returned states of type torch.float64, and torch.float32 is asked for",
    ),
    "observations of another size": (
        "observe",
        lambda seen: seen[..., :1],
        r"observe returned observations of shape \(3, 4, 1\), and .* = \(3, 4, 2\) is asked for",
    ),
    "observations (1, E, O)": (
        "observe",
        lambda seen: seen[:1],
        r"observe returned observations of shape \(1, 4, 2\)",
    ),
    "complex rewards": (
        "transition",
        lambda made: made._replace(reward=made.reward.to(torch.complex64)),
        "transition returned rewards of type torch.complex64, and real numbers",
    ),
    "another device": (
        "observe",
        lambda seen: seen.to("meta"),
        "observe returned observations on the device meta, and cpu is asked for",
    ),
    "no tensor": (
        "transition",
        lambda made: made._replace(reward=0.0),
        "transition returned rewards as float, and a tensor is asked for",
    ),
    "no Transition": (
        "transition",
        tuple,
        r"transition returned a tuple, and tasks.Transition\(state, reward, terminated\) is asked for",
    ),
    "nothing": ("transition", lambda made: None, "transition returned None"),
    "states that are not finite": (
        "initial_state",
        lambda state: state / 0,
        "initial_state returned states of which 24 of 24 numbers are not finite",
    ),
    "an observation that is not finite": (
        "observe",
        lambda seen: torch.where(seen == seen.amax((1, 2), keepdim=True), float("nan"), seen),
        "observe returned observations of which 3 of 24 numbers are not finite",
    ),
    "rewards beyond float32": (
        "transition",
        lambda made: made._replace(reward=made.reward.double() * 1e300),
        "transition returned rewards of which 12 of 12 numbers are not finite as torch.float32",
    ),
    "no constants": ("constants", lambda made: {}, "constants returned an empty dict"),
    "constants of fewer tasks": (
        "constants",
        lambda made: {key: value[:2] for key, value in made.items()},
        r"constants returned an entry 'speed' of shape \(2, 1\), and \(B, \.\.\.\) = \(3, \.\.\.\) is",
    ),
    "numbers in place of constants": (
        "constants",
        lambda made: {**made, "mass": 2.0},
        "constants returned an entry 'mass' as float",
    ),
    "a method that fails": (
        "initial_state",
        lambda state: state.numpy().transpose(3, 2, 1, 0),
        "initial_state failed with ValueError: axes don't match array",
    ),
    "constants that do not fit": (
        "constants",
        lambda made: {**made, "speed": made["speed"].expand(-1, 3)},
        "transition failed with RuntimeError: The size of tensor",
    ),
}


@pytest.mark.parametrize("breach", BREACHES)
@pytest.mark.parametrize("compiled", [True, False])
def test_a_breach_is_refused_with_family_method_and_shapes(breach, compiled, monkeypatch):
    """When environments are made, whether their steps would be compiled or not."""
    method, change, sentence = BREACHES[breach]
    if not compiled:
        monkeypatch.setattr(native, "library", lambda name: None)
    with pytest.raises(ValueError, match=f"^family slope: {sentence}"):
        environments_of(changed(method, change))
    with pytest.raises(ValueError, match=f"^family slope: {method}|failed with RuntimeError"):
        A2C(num_envs=4, num_steps=4).learner(changed(method, change), 3, noise())


def test_start_states_of_several_steps_are_held_to_the_promise_as_well():
    family = changed(
        "initial_state", lambda state: state if state.shape[1] == 4 else state.flatten(0, 1)[None]
    )
    environments = environments_of(family)
    with pytest.raises(ValueError, match=r"initial_state returned states of shape \(1, 384, 2\)"):
        environments.step(torch.zeros(3, 4, 1))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda reward: reward[:, :1], r"of shape \(3, 1\)"),
        (lambda reward: reward.to_sparse(), "as a tensor that is torch.sparse_coo"),
        (lambda reward: reward.to("meta"), "on the device meta"),
        (lambda reward: reward.to(torch.complex64), "of type torch.complex64"),
        (lambda reward: None, "as None"),
    ],
)
def test_what_is_of_another_kind_later_is_refused_at_that_step(change, told):
    family = Slope()
    environments = environments_of(family)
    environments.step(torch.zeros(3, 4, 1))
    family.transition = changed(
        "transition", lambda made: made._replace(reward=change(made.reward))
    ).transition
    with pytest.raises(ValueError, match=f"^family slope: transition returned rewards {told}"):
        environments.step(torch.zeros(3, 4, 1))


def test_what_is_not_finite_later_is_the_learners_business():
    family = Slope()
    environments = environments_of(family)
    family.transition = changed("transition", lambda made: made._replace(reward=made.reward / 0)).transition
    assert not environments.step(torch.zeros(3, 4, 1)).reward.isfinite().any()


@pytest.mark.parametrize("method", ["initial_state", "observe"])
def test_a_task_whose_numbers_are_not_finite_is_its_learners_business(method):
    def sick(numbers):
        return torch.cat((numbers[:1] / 0, numbers[1:]))

    environments = environments_of(changed(method, sick))
    step = environments.step(torch.zeros(3, 4, 1))
    assert not step.observation[0].isfinite().any()
    assert step.observation[1:].isfinite().all()
    with pytest.raises(ValueError, match=f"{method} returned .* not finite"):
        environments_of(changed(method, sick), batch=1)


def test_a_family_that_was_finite_once_is_not_refused_for_numbers_in_the_midst_of_work():
    family = Slope()
    environments_of(family)
    family.transition = changed("transition", lambda made: made._replace(reward=made.reward / 0)).transition
    environments_of(family).step(torch.zeros(3, 4, 1))
    with pytest.raises(ValueError, match="transition returned rewards of which"):
        environments_of(changed("transition", lambda made: made._replace(reward=made.reward / 0)))


VIEWS = {
    "expanded": lambda x: x[:1].expand_as(x),
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every other": lambda x: torch.stack((x, x), -1)[..., 0],
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_are_as_good_as_contiguous_tensors(view, monkeypatch):
    def all_of(made):
        return Transition(*map(VIEWS[view], made))

    def copied(made):
        return Transition(*(VIEWS[view](x).contiguous() for x in made))

    results = []
    for change in (all_of, copied):
        learner = A2C(num_envs=4).learner(changed("transition", change), 3, noise())
        results.append(learner.gradient(learner.initial_parameters()).inner)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float16, torch.float64])
def test_numbers_of_other_types_are_converted(dtype):
    plain = environments_of(
        changed("transition", lambda made: made._replace(reward=made.reward.to(dtype).float()))
    )
    other = environments_of(changed("transition", lambda made: made._replace(reward=made.reward.to(dtype))))
    action = torch.zeros(3, 4, 1)
    assert torch.equal(plain.step(action).reward, other.step(action).reward)
    ended = environments_of(
        changed("transition", lambda made: made._replace(terminated=(made.state[..., 0] > 0.3).to(dtype)))
    ).step(action)
    assert ended.terminated.dtype is torch.bool
    assert ended.terminated.any()
    assert not ended.terminated.all()


def test_gradients_of_learned_dynamics_are_left_behind():
    weight = torch.nn.Parameter(torch.ones(2))
    family = changed("observe", lambda seen: seen * weight)
    environment = TaskEnv(family)
    environment.reset(seed=0)
    environment.step(np.zeros(1))
    assert not environments_of(family).observation.requires_grad
    assert not random_returns(family, family.sample_tasks(2, noise()), noise(), 2).requires_grad


@pytest.mark.parametrize("method", ["observe", "transition"])
def test_methods_that_modify_the_state_are_refused(method):
    def modifying(self, constants, state, *given):
        return getattr(Slope, method)(self, constants, state.mul_(0.5), *given)

    family = type("Modifying", (Slope,), {method: modifying})()
    with pytest.raises(ValueError, match=f"^family slope: {method} modified the state"):
        environments_of(family)


@pytest.mark.parametrize("field", ["reward", "terminated"])
def test_a_family_may_fill_the_same_tensor_at_every_step(field):
    class Filling(Slope):
        kept = None

        def transition(self, constants, state, action, noise):
            made = super().transition(constants, state, action, noise)
            value = getattr(made, field)
            if self.kept is None or self.kept.shape != value.shape:
                self.kept = value.clone()
            return made._replace(**{field: self.kept.copy_(value)})

    told = []
    for family in (Slope(), Filling()):
        world = environments_of(family)
        steps = [world.step(torch.ones(3, 4, 1)) for _ in range(3)]
        told.append(torch.stack([getattr(step, field).float() for step in steps]))
    assert torch.equal(*told)


def test_a_transition_that_modifies_constants_is_refused():
    class Heating(Slope):
        def transition(self, constants, state, action, noise):
            made = super().transition(constants, state, action, noise)
            constants["speed"].add_(1.0)
            return made

    with pytest.raises(ValueError, match="slope: transition modified the entry 'speed' of constants"):
        environments_of(Heating())


def test_an_ending_that_is_no_truth_is_refused_at_whatever_step():
    class Doubtful(Slope):
        calls = 0

        def transition(self, constants, state, action, noise):
            self.calls += 1
            made = super().transition(constants, state, action, noise)
            return made._replace(terminated=torch.full(state.shape[:2], 0.0 if self.calls < 4 else 0.3))

    world, push = environments_of(Doubtful()), torch.ones(3, 4, 1)
    world.step(push)
    world.step(push)
    with pytest.raises(ValueError, match="slope: transition returned terminated"):
        world.step(push)


def test_the_rehearsal_draws_nothing_from_the_environments_noise():
    class Counting(Slope):
        calls = 0

        def transition(self, constants, state, action, noise):
            self.calls += 1
            noise.uniform(len(state), 2)
            return super().transition(constants, state, action, noise)

    family, source = Counting(), noise()
    tasks = family.sample_tasks(3, source)
    before = source.drawn.clone()
    family.initial_state(tasks, 4, source)
    expected = source.drawn.clone()
    source.drawn.copy_(before)
    family.environments(tasks, 4, source)
    assert source.drawn == expected
    assert family.calls == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tasks: {}, "an empty dict, and a dict of tensors"),
        (lambda tasks: None, "None, and a dict of tensors"),
        (
            lambda tasks: {"speed": tasks["speed"][:2]},
            r"entry 'speed' of shape \(2, 1\), .* \(3, \*, \.\.\.\)",
        ),
        (lambda tasks: {"speed": tasks["speed"][:, 0]}, r"entry 'speed' of shape \(3,\)"),
        (lambda tasks: {"speed": 0.5}, "entry 'speed' as float"),
        (
            lambda tasks: {**tasks, "horizon": torch.tensor([[5.0], [0.0], [5.0]])},
            "entry 'horizon' of 0, and more",
        ),
        (
            lambda tasks: {**tasks, "horizon": torch.full((3, 1), float("inf"))},
            "entry 'horizon' of which 3 of 3",
        ),
        (
            lambda tasks: {**tasks, "horizon": torch.full((3,), 5.0)},
            r"entry 'horizon' of shape \(3,\), .*\(B, 1\)",
        ),
    ],
)
def test_tasks_that_are_none_are_refused(change, sentence):
    family = changed("sample_tasks", change)
    config = A2C(num_envs=4, num_steps=4)
    with pytest.raises(
        ValueError,
        match=f"^family slope: sample_tasks returned.*{sentence}",
    ):
        config.learner(family, 3, noise())
    given = change(Slope().sample_tasks(3, noise()))
    if given is not None:  # which asks for drawn ones
        with pytest.raises(ValueError, match=r"^family slope: the tasks, of sample_tasks or given, hold"):
            config.learner(Slope(), 3, noise(), tasks=given)


def test_new_tasks_are_held_to_the_promise_as_the_first():
    learner = A2C(num_envs=4, num_steps=4).learner(Slope(), 3, noise())
    with pytest.raises(ValueError, match=r"^family slope: the tasks, .* 'speed' of shape \(3,\)"):
        learner.reset(torch.ones(3, dtype=torch.bool), {"speed": torch.ones(3)})


@pytest.mark.parametrize("method", ["reference_returns", "random_returns"])
@pytest.mark.parametrize(
    ("returns", "sentence"),
    [
        (torch.zeros(3, 1), r"of shape \(3, 1\), and \(B,\) = \(3,\) is asked for"),
        (torch.zeros(()), r"of shape \(\), and"),
        (torch.zeros(2), r"of shape \(2,\), and"),
        (torch.full((3,), float("nan")), "of which 3 of 3 numbers are not finite"),
        (1.0, "as float, and a tensor is asked for"),
    ],
)
def test_returns_of_another_shape_are_refused(method, returns, sentence):
    family = type("Judged", (Slope,), {method: lambda self, tasks, noise: returns})()
    ask = {"reference_returns": reference_returns, "random_returns": random_returns}[method]
    with pytest.raises(ValueError, match=f"^family slope: {method} returned returns {sentence}"):
        ask(family, family.sample_tasks(3, noise()), noise())


DECLARATIONS = {
    "a typo in train_range": (
        {"train_range": {"sped": (0.1, 0.2)}, "ood_range": {}},
        "train_range names sped",
    ),
    "a typo in ood_range": ({"ood_range": {"sped": (0.1, 0.9)}}, "ood_range names sped"),
    "bounds upside down": ({"train_range": {"speed": (0.75, 0.25)}}, "train_range gives speed as"),
    "bounds that are not finite": (
        {"train_range": {"speed": (0.0, float("inf"))}},
        "train_range gives speed as",
    ),
    "three bounds": ({"train_range": {"speed": (0.0, 1.0, 2.0)}}, "train_range gives speed as"),
    "ood within": ({"ood_range": {"speed": (0.3, 0.5)}}, "ood_range shifts speed"),
    "a default that is no number": ({"defaults": {"speed": None}}, "defaults gives speed as None"),
    "a horizon of 0": ({"horizon": 0}, "horizon is 0, and a whole number of steps"),
    "a negative horizon": ({"horizon": -5}, "horizon is -5"),
    "half a horizon": ({"horizon": 10.5}, "horizon is 10.5"),
    "no horizon": ({"horizon": None}, "horizon is None"),
    "a horizon without end": ({"horizon": float("inf")}, "horizon is inf"),
    "a horizon drawn from 0 on": (
        {"train_range": {"horizon": (0.0, 5.0)}, "ood_range": {}},
        "train_range gives a horizon",
    ),
    "no name": ({"name": " "}, "name is ' '"),
    "observations in a Dict": (
        {"observation_space": spaces.Dict(a=spaces.Discrete(2))},
        "observation_space is Dict",
    ),
    "observations of bytes": (
        {"observation_space": spaces.Box(0, 255, (2,), np.uint8)},
        r"observation_space is a Box of shape \(2,\) and type uint8",
    ),
    "observations without axes": (
        {"observation_space": spaces.Box(0.0, 1.0, ())},
        r"observation_space is a Box of shape \(\)",
    ),
    "actions of several kinds": (
        {"action_space": spaces.MultiDiscrete([2, 2])},
        "action_space is MultiDiscrete",
    ),
    "actions counted from 1": (
        {"action_space": spaces.Discrete(3, start=1)},
        r"action_space is Discrete\(3, start=1\)",
    ),
    "a matrix of actions": (
        {"action_space": spaces.Box(-1.0, 1.0, (2, 2))},
        r"action_space is a Box of shape \(2, 2\)",
    ),
    "whole numbers as actions": (
        {"action_space": spaces.Box(0, 3, (1,), np.int64)},
        "action_space is a Box of .* int64",
    ),
    "a scale of 0": ({"observation_scale": (1.0, 0.0)}, "observation_scale holds"),
    "a scale of another size": ({"observation_scale": (1.0, 1.0, 1.0)}, "observation_scale is not of"),
}


@pytest.mark.parametrize("case", DECLARATIONS)
def test_what_cannot_be_worked_with_is_refused_before_anything_is_drawn(case):
    attributes, sentence = DECLARATIONS[case]
    family = type("Declared", (Slope,), attributes)()
    tasks = Slope().sample_tasks(3, noise())
    told = r"^family (slope|Declared): " if case != "no name" else "^family  *: |^family Declared: "
    for use in (
        lambda: sampled_tasks(family, 3, noise()),
        lambda: A2C().learner(family, 3, noise(), tasks=tasks),
        lambda: family.environments(tasks, 4, noise()),
        lambda: ActorCritic(family, 4),
        lambda: TaskEnv(family),
        lambda: TaskVectorEnv(family, 2),
    ):
        with pytest.raises(ValueError, match=told + sentence):
            use()


def test_ranges_of_families_that_draw_tasks_themselves_may_name_anything():
    family = type("Own", (Slope,), {"sample_tasks": Slope.default_tasks, "train_range": {"other": (0, 1)}})()
    family.check_declaration()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_that_ships_keeps_its_promises(name):
    try:
        family = make_family(name)
    except ValueError as missing:
        pytest.skip(str(missing))
    findings = inspect(family)
    assert [finding for finding in findings if finding.broken or finding.skipped or finding.notes] == []


def test_policies_with_a_memory_refuse_what_others_refuse(monkeypatch):
    monkeypatch.setitem(FAMILIES, "slope", Slope)
    policy = RecurrentPolicy("slope", 4)
    tasks = Slope().sample_tasks(3, noise())
    assert play(policy, tasks, 4, noise(), environments=4).rewards.shape == (12, 4)
    method, change, sentence = BREACHES["reward (B, 1)"]
    policy.distribution.family.transition = changed(method, change).transition
    with pytest.raises(ValueError, match=f"^family slope: {sentence}"):
        play(policy, tasks, 4, noise(), environments=4)


@pytest.mark.skipif(native.library("rollout") is None, reason="nothing runs compiled: see learned-opt doctor")
def test_families_are_compiled_only_if_they_keep_their_promise_with_any_number_of_environments():
    """A reward of (B, 4) whatever E is right with four environments, and they run in torch."""
    family = changed("transition", lambda made: made._replace(reward=made.reward[:, :1].expand(-1, 4) * 0))
    environments_of(family, 3, 4).step(torch.zeros(3, 4, 1))
    with pytest.raises(ValueError, match="transition returned rewards of shape"):
        why_in_torch(family)
    learner = A2C(num_envs=4, num_steps=4).learner(family, 3, noise())
    assert learner.gradient(learner.initial_parameters()).inner.isfinite().all()
    assert why_in_torch(Slope()) is None


@pytest.mark.skipif(native.library("rollout") is None, reason="nothing runs compiled: see learned-opt doctor")
@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("initial_state", lambda state: state.half()),
        ("initial_state", lambda state: state[..., :1]),
        ("initial_state", lambda state: torch.cat((state, state), -1)),
        ("observe", lambda seen: seen[..., :1]),
        ("observe", lambda seen: torch.cat((seen, seen), -1)),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_a_family_that_is_another_one_when_it_is_traced_stays_in_torch(method, change, alone):
    """It keeps its promise for the environments at hand, but not for the few or many that tracing tries."""

    def apart(numbers):
        return (
            change(numbers)
            if numbers.shape[1] not in (4, 128) and alone == (numbers.shape[1] == 1)
            else numbers
        )

    family = changed(method, apart)
    environments = environments_of(family)
    assert dynamics_of(environments) is None
    learner = A2C(num_envs=4, num_steps=4).learner(family, 3, noise())
    assert learner.gradient(learner.initial_parameters()).inner.isfinite().all()


def test_inspection_finds_all_that_is_wrong_and_not_the_first_alone():
    class Wrong(Slope):
        horizon = 0

        def observe(self, constants, state):
            return state[:, 0]

        def transition(self, constants, state, action, noise):
            state += 1
            made = super().transition(constants, state, action, noise)
            return made._replace(reward=made.reward[:, :1], terminated=made.terminated.to(torch.complex64))

        def reference_returns(self, tasks, noise):
            return tasks["speed"]

    told = [line for finding in inspect(Wrong()) for line in finding.broken]
    for start in (
        "horizon is 0",
        "observe returned observations of shape",
        "transition returned rewards of shape",
        "transition returned terminated of type",
        "transition modified the state",
    ):
        assert sum(line.startswith(start) for line in told) == 1, (start, told)


@pytest.mark.parametrize("tasks", [1, 3, 4])
def test_inspection_asks_for_the_returns_of_several_numbers_of_tasks(tasks):
    family = type("Fixed", (Slope,), {"reference_returns": lambda self, given, noise: torch.ones(tasks)})()
    told = [line for finding in inspect(family) for line in finding.broken]
    assert len(told) == 1
    assert told[0].startswith("reference_returns returned returns of shape")


def test_inspection_notes_what_no_promise_forbids():
    class Loose(Slope):
        def observe(self, constants, state):
            return 9 * state + torch.rand(())

    state = torch.get_rng_state()
    notes = [note for finding in inspect(Loose()) for note in finding.notes]
    torch.set_rng_state(state)
    assert any("same seed gives other numbers" in note for note in notes)
    assert any("leave the bounds" in note for note in notes)
