"""Whatever an environment returns is either run as it says or refused in one sentence that names it."""

import math
import os

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from learned_opt.tasks import EnvironmentFailedError, GymnasiumFamily, Noise
from learned_opt.tasks.gymnasium_spaces import native

EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "200"))
E, LENGTH = 2, 5
SAYS = {"reset": None, "step": None}
"""What the environments below return, in place of what they should."""


def noise(seed=0):
    return Noise(seed)


class Says(gymnasium.Env):
    """Returns what `SAYS` holds, or the step it was made with: another process has a `SAYS` of its own."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, space=None, mode=None, step=None):
        self.always = step
        self.observation_space = self.observation_space if space is None else space

    def reset(self, *, seed=None, options=None):
        default = (self.observation_space.sample(), {})
        return default if SAYS["reset"] is None else SAYS["reset"]

    def step(self, action):
        return self.always or SAYS["step"]


class SaysVector(VectorEnv):
    """The same of E environments."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (gymnasium's own declaration)

    def __init__(self, num_envs=1, max_episode_steps=None, mode=None):
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = Says.observation_space, Says.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        if mode is not None:
            self.metadata = {"autoreset_mode": mode}

    def reset(self, *, seed=None, options=None):
        return (np.zeros((self.num_envs, 3), np.float32), {}) if SAYS["reset"] is None else SAYS["reset"]

    def step(self, actions):
        return SAYS["step"]


gymnasium.register("Says-v0", Says, max_episode_steps=LENGTH, vector_entry_point=SaysVector)
SCALAR = GymnasiumFamily("Says-v0")
VECTOR = GymnasiumFamily("Says-v0", vectorization="vector_entry_point")
GOOD = {"scalar": (np.ones(3, np.float32), 1.0, False, False, {})}
GOOD["vector"] = (np.ones((E, 3), np.float32), np.ones(E), np.zeros(E, bool), np.zeros(E, bool), {})


@pytest.fixture(autouse=True)
def silent():
    SAYS.update(reset=None, step=None)


def stepped(family, step, **options):
    """The first step of environments that return `step`."""
    SAYS.update(reset=None, step=step)
    environments = family.environments(family.sample_tasks(1, noise()), E, noise(), **options)
    return environments.step(torch.zeros(1, E, dtype=torch.long))


def refusal(family, step):
    with pytest.raises(EnvironmentFailedError) as caught:
        stepped(family, step)
    return str(caught.value)


shapes = st.sampled_from([(), (1,), (E,), (3,), (E, 1), (1, E), (E, 3), (1, 3), (E, 3, 1), (0,)])
dtypes = st.sampled_from(["?", "i1", "u1", "i4", "i8", "u8", "f2", "f4", "f8", "c8", "O", "U1", "M8[s]"])
anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from([[], [1.0], [1, 2, 3], [[1.0], [2.0, 3.0]], {"a": 1}, {}, object(), 1e39, 10**400]),
    st.builds(lambda shape, dtype: np.ones(shape).astype(dtype), shapes, dtypes),
    shapes.flatmap(lambda shape: arrays.arrays(np.float64, shape)),
    shapes.flatmap(lambda shape: arrays.arrays(np.float32, shape)),
    shapes.map(torch.ones),
)


def is_numbers(value, shape):
    """Whether it is finite numbers of that shape in float32, by another way than the checks'."""
    try:
        array = np.array(value)
    except Exception:
        return False
    numeric = np.issubdtype(array.dtype, np.number) or array.dtype == bool
    if array.shape != shape or not numeric or np.iscomplexobj(array):
        return False
    return all(abs(float(x)) < 3.4028235e38 for x in array.ravel())


def is_flags(value, shape):
    return is_numbers(value, shape) and set(np.array(value).ravel().tolist()) <= {0, 1}


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.sampled_from(["scalar", "vector"]),
    st.dictionaries(st.integers(0, 4), anything, min_size=1, max_size=2),
)
@pytest.mark.filterwarnings("ignore")
def test_what_a_step_returns_is_run_or_refused_by_name(kind, odd):
    family, lead = (SCALAR, ()) if kind == "scalar" else (VECTOR, (E,))
    step = tuple(odd.get(index, value) for index, value in enumerate(GOOD[kind]))
    right = (
        is_numbers(step[0], (*lead, 3))
        and is_numbers(step[1], lead)
        and is_flags(step[2], lead)
        and is_flags(step[3], lead)
        and isinstance(step[4], dict)
    )
    try:
        taken = stepped(family, step)
    except EnvironmentFailedError as error:
        assert not right
        told = str(error)
        assert told.startswith("Says-v0")
        assert "at step 1" in told
        assert "\n" not in told
        return
    assert taken.final_observation.shape == (1, E, 3)
    assert taken.reward.shape == taken.terminated.shape == (1, E)
    assert taken.reward.dtype == taken.observation.dtype == torch.float32
    assert bool(taken.final_observation.isfinite().all() & taken.reward.isfinite().all())
    assert not bool((taken.terminated & taken.truncated).any())
    if right:
        expected = np.broadcast_to(np.asarray(step[1], np.float32), (1, E))
        np.testing.assert_allclose(taken.reward.numpy(), expected, rtol=1e-6)
        seen = np.broadcast_to(np.asarray(step[0], np.float32), (1, E, 3))
        np.testing.assert_allclose(taken.final_observation.numpy(), seen, rtol=1e-6)
        ended = np.broadcast_to(np.asarray(step[2]).astype(bool), (1, E))
        np.testing.assert_array_equal(taken.terminated.numpy(), ended)


@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(st.sampled_from(["scalar", "vector"]), anything)
@pytest.mark.filterwarnings("ignore")
def test_what_a_reset_returns_is_run_or_refused_by_name(kind, odd):
    family, lead = (SCALAR, ()) if kind == "scalar" else (VECTOR, (E,))
    for result in (odd, (odd, {}), (odd,), (odd, {}, {})):
        if result is None:
            continue
        SAYS.update(reset=result)
        right = isinstance(result, tuple) and len(result) == 2 and is_numbers(odd, (*lead, 3))
        try:
            made = family.environments(family.sample_tasks(1, noise()), E, noise())
        except EnvironmentFailedError as error:
            told = str(error)
            assert not right
            assert told.startswith("Says-v0")
            assert "\n" not in told
        else:
            assert made.observation.shape == (1, E, 3)
            assert bool(made.observation.isfinite().all())


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        (1, None, r"failed at step 1: TypeError: float\(\) argument"),
        (1, 1e39, "a reward that is not finite as float32 at step 1"),
        (1, "ten", "failed at step 1: ValueError: could not convert string to float: 'ten'"),
        (0, np.ones(1, np.float32), r"failed at step 1: .*an observation of shape \(1,\), and \(3,\)"),
        (0, {"eye": 1}, r"failed at step 1: .*an observation of shape \(\)"),
        (0, np.full(3, 1e39), "an observation that is not finite as float32"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_one_environment_returned_wrong_is_told_with_its_name_and_the_step(place, value, complaint):
    step = list(GOOD["scalar"])
    step[place] = value
    for vectorization in ("sync", "async"):
        family = GymnasiumFamily("Says-v0", vectorization=vectorization, options={"step": tuple(step)})
        with pytest.raises(EnvironmentFailedError, match=f"^Says-v0.*{complaint}"):
            stepped(family, tuple(step))


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        (1, 1.0, r"rewards of shape \(\), and \(2,\) was asked for"),
        (1, np.ones(1), r"rewards of shape \(1,\), and \(2,\) was asked for"),
        (1, np.ones((E, 1)), r"rewards of shape \(2, 1\)"),
        (1, np.array([None] * E), "a reward that is not finite"),
        (0, np.ones((1, 3)), r"observations of shape \(1, 3\)"),
        (2, False, r"terminated of shape \(\)"),
        (3, np.zeros(3, bool), r"truncated of shape \(3,\)"),
    ],
)
def test_what_a_vector_version_returned_wrong_is_said_in_words(place, value, complaint):
    step = list(GOOD["vector"])
    step[place] = value
    with pytest.raises(EnvironmentFailedError, match=complaint):
        stepped(VECTOR, tuple(step))


def test_the_interface_before_gymnasium_is_said_in_words():
    assert "not enough values to unpack (expected 5, got 4)" in refusal(
        SCALAR, (np.ones(3, np.float32), 1.0, False, {})
    )
    SAYS.update(reset=np.zeros(3, np.float32))
    with pytest.raises(EnvironmentFailedError, match=r"Says-v0 cannot be reset at step 0: .*unpack"):
        SCALAR.environments(SCALAR.sample_tasks(1, noise()), E, noise())


def test_a_same_step_version_without_final_observations_is_refused():
    family = GymnasiumFamily(
        "Says-v0", vectorization="vector_entry_point", options={"mode": AutoresetMode.SAME_STEP}
    )
    seen, reward, _, truncated, _ = GOOD["vector"]
    for infos in ({}, None, {"final_obs": None}, {"final_obs": [1.0]}):
        with pytest.raises(EnvironmentFailedError, match=r"Says-v0 failed at step 1: (Key|Type|Index)Error"):
            stepped(family, (seen, reward, np.array([False, True]), truncated, infos))
    final = np.array([None, np.full(3, 7.0)], dtype=object)
    taken = stepped(family, (seen, reward, np.array([False, True]), truncated, {"final_obs": final}))
    assert taken.final_observation[0].tolist() == [[1.0] * 3, [7.0] * 3]


def test_numbers_that_the_space_s_type_cannot_hold_are_refused():
    box = spaces.Box(0, 100, (3,), "u1")
    family = GymnasiumFamily("Says-v0", options={"space": box})
    assert stepped(family, (np.arange(3, dtype="u1"), *GOOD["scalar"][1:])).observation.shape == (1, E, 3)
    assert "Cannot cast" in refusal(family, (np.array([0.5, 1, 2]), *GOOD["scalar"][1:]))


composite = spaces.Dict(
    place=spaces.Discrete(4, start=1),
    pair=spaces.Tuple([spaces.MultiBinary(2), spaces.MultiDiscrete([3, 2])]),
    eye=spaces.Box(0, 1, (2, 2)),
)


@pytest.mark.parametrize("part", [{"place": 5}, {"place": 1.5}, {"eye": None}, {"pair": None}])
def test_composite_observations_are_flattened_as_gymnasium_does(part):
    family = GymnasiumFamily("Says-v0", options={"space": composite})
    good = {"place": 4, "pair": (np.array([0, 1]), np.array([2, 0])), "eye": np.ones((2, 2))}
    seen = stepped(family, (good, *GOOD["scalar"][1:])).observation
    np.testing.assert_array_equal(seen[0, 0].numpy(), spaces.flatten(composite, good))
    assert refusal(family, ({**good, **part}, *GOOD["scalar"][1:])).startswith("Says-v0")
    assert "KeyError" in refusal(family, ({"eye": 1}, *GOOD["scalar"][1:]))


class Mission(gymnasium.Space):
    """No space that gymnasium knows."""

    def sample(self, mask=None, probability=None):
        return "go"

    def contains(self, x):
        return isinstance(x, str)


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (Mission(), "of Mission,"),
        (spaces.Dict(eye=spaces.Box(0, 1, (2,)), mission=Mission()), "of Mission,"),
        (spaces.Text(5), "of Text,"),
        (spaces.Dict(say=spaces.Tuple([spaces.Text(5)])), "of Text,"),
        (spaces.Sequence(spaces.Discrete(2)), "of Sequence,"),
        (spaces.Graph(spaces.Box(0, 1, (2,)), None), "of Graph,"),
        (spaces.Tuple([spaces.Discrete(2), spaces.Graph(spaces.Box(0, 1, (2,)), None)]), "of Graph,"),
    ],
)
def test_observations_that_cannot_be_flattened_are_named_with_what_to_do(space, named):
    complaint = (
        f"^Says-v0 has observations.*{named} which cannot be flattened .*wrap it .*TransformObservation"
    )
    with pytest.raises(ValueError, match=complaint):
        GymnasiumFamily("Says-v0", options={"space": space})


class Acts(Says):
    """With another space of actions."""

    def __init__(self, space):
        super().__init__()
        self.action_space = space


gymnasium.register("Acts-v0", Acts, max_episode_steps=LENGTH)


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiDiscrete([2, 2]),
        spaces.MultiBinary(2),
        spaces.Dict(go=spaces.Discrete(2)),
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Box(0, 1, (2, 2)),
        spaces.Box(0, 1, ()),
        spaces.Box(0, 1, (0,)),
        spaces.Text(3),
        Mission(),
        None,
    ],
)
def test_actions_of_other_spaces_are_refused_with_what_to_do(space):
    with pytest.raises(
        ValueError, match=r"^Acts-v0 has actions of .*wrap it in gymnasium.wrappers.TransformAction"
    ):
        GymnasiumFamily("Acts-v0", options={"space": space})


def test_a_wrapper_that_the_refusal_names_makes_it_run():
    joint = lambda env: gymnasium.wrappers.TransformAction(  # noqa: E731
        env, lambda action: np.array(np.unravel_index(action, (2, 3))), spaces.Discrete(6)
    )
    family = GymnasiumFamily("Acts-v0", options={"space": spaces.MultiDiscrete([2, 3])}, wrappers=[joint])
    assert stepped(family, GOOD["scalar"]).reward.tolist() == [[1.0, 1.0]]


boxes = st.tuples(
    st.sampled_from(["i1", "u1", "i2", "u4", "i8", "u8", "f2", "f4", "f8"]),
    st.integers(0, 100),
    st.integers(1, 27),
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(boxes, st.floats(-200, 200, width=32))
def test_actions_are_the_nearest_in_the_box(box, action):
    kind, low, width = box
    space = spaces.Box(low, low + width, (1,), kind)
    made = native(space, torch.tensor([[action]]))
    assert made[0] in space
    inside = min(max(action, low), low + width)
    assert abs(float(made[0, 0]) - inside) <= (0.5 if made.dtype.kind in "iu" else abs(inside) * 1e-3)


@pytest.mark.parametrize("kind", ["i1", "u1", "i4", "u4"])
def test_the_largest_integers_do_not_wrap_around(kind):
    limits = np.iinfo(kind)
    space = spaces.Box(limits.min, limits.max, (1,), kind)
    low, high = native(space, torch.tensor([[-math.inf], [1e30]])).ravel()
    assert low == limits.min
    assert high >= limits.max - limits.max // 2**40


def test_every_integer_of_a_box_is_reached_equally_by_uniform_actions_but_at_the_ends():
    space = spaces.Box(0, 3, (1,), np.int64)
    counts = np.bincount(native(space, torch.linspace(0, 3, 3001).unsqueeze(1)).ravel())
    assert counts.min() > 480
    assert abs(counts[1] - counts[2]) <= 2
    assert native(spaces.Discrete(3, start=5), torch.tensor([[0, 2]])).tolist() == [[5, 7]]


class Crowd(SaysVector):
    """More environments than were asked for, or others."""

    def __init__(self, num_envs=1, max_episode_steps=None, change=None):
        super().__init__(num_envs)
        name, value = change
        setattr(self, name, value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("num_envs", 3), "environments 3 where 1 were asked for"),
        (
            ("single_observation_space", spaces.Box(0, 1, (4,))),
            r"observations Box\(.*\(4,\).*\(3,\)",
        ),
        (("single_observation_space", spaces.Box(0, 9, (3,), np.uint8)), r"observations Box\(.* uint8"),
        (("single_observation_space", spaces.Discrete(3)), r"observations Discrete\(3\)"),
        (("single_action_space", spaces.Discrete(5)), r"actions Discrete\(5\) where Discrete\(2\)"),
        (("single_action_space", spaces.Discrete(2, start=1)), r"actions Discrete\(2, start=1\)"),
        (("single_action_space", spaces.Box(0, 1, (2,))), r"actions Box\(.*\(2,\)"),
    ],
)
def test_a_vector_version_that_is_no_copies_of_the_single_one_is_refused_at_once(change, complaint):
    with pytest.raises(ValueError, match=f"^Crowd-v0's vector version has {complaint}.*take sync or async"):
        GymnasiumFamily(
            gymnasium.envs.registration.EnvSpec(
                "Crowd-v0",
                entry_point=lambda change: Says(),
                vector_entry_point=Crowd,
                max_episode_steps=LENGTH,
            ),
            vectorization="vector_entry_point",
            options={"change": change},
        )


class Count(Says):
    """Shows its steps; ends after `length` of them."""

    def __init__(self, length=1000):
        super().__init__()
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.count += 1
        return np.full(3, self.count, np.float32), 1.0, self.count >= self.length, False, {}


def endless(mode, reset_all=False, **taken):
    """A vector version that knows no time limit."""

    class Stubborn(SyncVectorEnv):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)

    kind = Stubborn if reset_all else SyncVectorEnv

    def make(num_envs, length=1000):
        return kind([lambda i=i: Count(length + 9 * i) for i in range(num_envs)], autoreset_mode=mode)

    def swallow(num_envs, length=1000, **_):
        return make(num_envs, length)

    return swallow if taken else make


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("swallows", [False, True])
@pytest.mark.parametrize("own_limit", [None, 4])
def test_a_limit_that_the_vector_version_does_not_take_is_counted(mode, swallows, own_limit):
    spec = gymnasium.envs.registration.EnvSpec(
        "Endless-v0",
        entry_point=Count,
        vector_entry_point=endless(mode, **({"any": 1} if swallows else {})),
        max_episode_steps=own_limit,
    )
    told = {} if own_limit else {"max_episode_steps": 4}
    family = GymnasiumFamily(spec, vectorization="vector_entry_point", options={"length": 3}, **told)
    environments = family.environments(family.sample_tasks(1, noise()), 2, noise())
    played = [[], []]
    for _ in range(30):
        step = environments.step(torch.zeros(1, 2, dtype=torch.long))
        for i in range(2):
            if step.valid is None or bool(step.valid[0, i]):
                ended = bool(step.terminated[0, i]), bool(step.truncated[0, i])
                played[i].append((float(step.final_observation[0, i, 0]), *ended))
    cycles = [[(1.0, False, False), (2.0, False, False), (3.0, True, False)], []]
    cycles[1] = [*[(float(n), False, False) for n in (1, 2, 3)], (4.0, False, True)]
    for told_of, cycle in zip(played, cycles, strict=True):
        assert told_of == (cycle * 30)[: len(told_of)]


def test_a_vector_version_that_can_neither_be_told_nor_reset_in_part_is_refused():
    spec = gymnasium.envs.registration.EnvSpec(
        "Stubborn-v0", entry_point=Count, vector_entry_point=endless(AutoresetMode.NEXT_STEP, reset_all=True)
    )
    family = GymnasiumFamily(
        spec, vectorization="vector_entry_point", options={"length": 2}, max_episode_steps=4
    )
    environments = family.environments(family.sample_tasks(1, noise()), 2, noise())
    told = r"Stubborn-v0 cannot be reset at step \d: .* its vector version resets other environments .*async"
    for _ in range(3):
        environments.step(torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(EnvironmentFailedError, match=told):
        environments.step(torch.zeros(1, 2, dtype=torch.long))


def test_what_the_step_that_resets_pays_counts_nowhere():
    paying = (np.ones((E, 3), np.float32), np.array([5.0, np.nan]), np.ones(E, bool), np.zeros(E, bool), {})
    SAYS.update(reset=None, step=(*paying[:1], np.ones(E), *paying[2:]))
    environments = VECTOR.environments(VECTOR.sample_tasks(1, noise()), E, noise())
    assert environments.step(torch.zeros(1, E, dtype=torch.long)).reward.tolist() == [[1.0, 1.0]]
    SAYS.update(step=(*paying[:2], *[np.zeros(E, bool)] * 2, {}))
    step = environments.step(torch.zeros(1, E, dtype=torch.long))
    assert step.reward.tolist() == [[0.0, 0.0]]
    assert step.valid.tolist() == [[False, False]]
