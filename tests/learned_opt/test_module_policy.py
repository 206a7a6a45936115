"""A torch module as the policy: it equals the stacked perceptrons, learns, and is refused if it must be."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from learned_opt import Adam
from learned_opt.algorithms import A2C, DQN, Reinforce
from learned_opt.policies.distribution import INITIAL_LOG_STD
from learned_opt.policies.mlp import ActorCritic
from learned_opt.policies.module import ModulePolicy
from learned_opt.rollouts.collect import play_episodes
from learned_opt.rules.base import StepInput
from learned_opt.tasks import Noise, make_family
from learned_opt.tasks.families.catch import Catch
from learned_opt.tasks.random import derive_noise, derive_seed

SETTINGS = {
    "a2c": A2C(hidden_size=8, num_envs=3, num_steps=12),
    "reinforce": Reinforce(hidden_size=8, num_envs=3),
    "dqn": DQN(hidden_size=8, num_envs=3, num_steps=12),
}


class ImageCatch(Catch):
    """Catch whose observation is a picture of the board, (1, 10, 5)."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(0.0, 1.0, (1, self.rows, self.columns), np.float32)

    def observe(self, constants, state):
        return super().observe(constants, state).unflatten(-1, (1, self.rows, self.columns))


def perceptron(inputs, outputs, width=8):
    return nn.Sequential(
        nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs)
    )


class Separate(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.actor, self.critic = perceptron(inputs, outputs), perceptron(inputs, 1)

    def forward(self, observations):
        return self.actor(observations), self.critic(observations)


class Convolutional(nn.Module):
    """One trunk for both; values come as (R,)."""

    def __init__(self, actions=3):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(32), nn.Tanh()
        )
        self.action_net, self.value_net = nn.Linear(32, actions), nn.Linear(32, 1)

    def forward(self, images):
        signal = self.trunk(images)
        return self.action_net(signal), self.value_net(signal).squeeze(-1)


def separate(family):
    policy = ActorCritic(family)
    return ModulePolicy(family, lambda: Separate(family.observation_space.shape[0], policy.actions))


def exact(seed, *path, replicas=1):
    """Random numbers in double precision."""
    return Noise(derive_seed(seed, *path), replicas=replicas, dtype=torch.float64)


def as_stacked(name):
    """actor.2.weight of an nn.Sequential with activations is actor.1.weight of the stacked perceptron."""
    if name == "log_std":
        return "actor.log_std"
    role, index, part = name.split(".")
    return f"{role}.{int(index) // 2}.{part}"


def columns_of(layout, stacked):
    """For each coordinate of a module's layout, its place in the stacked one."""
    places = stacked.split(torch.arange(stacked.size).unsqueeze(0))
    return layout.join({spec.name: places[as_stacked(spec.name)] for spec in layout.specs}).squeeze(0)


@pytest.mark.parametrize(
    ("family", "objective"),
    [
        ("cartpole", "a2c"),
        ("pendulum", "a2c"),
        ("navigation2d", "reinforce"),
        ("cartpole", "reinforce"),
        ("mountain_car", "dqn"),
    ],
)
def test_learners_measure_with_a_module_what_they_do_with_stacked_perceptrons(family, objective):
    family, config = make_family(family), SETTINGS[objective]
    outer = 0 if config.whole_episodes else 2
    module = separate(family)
    stacked = ActorCritic(family, width=8)
    columns = columns_of(module.layout(), stacked.layout())
    theta = stacked.initial_parameters(2, exact(0, "theta"))
    theta = theta + 0.3 * exact(1, "theta").normal(*theta.shape)
    measured = []
    for policy, start in ((stacked, theta), (module, theta[:, columns])):
        learner = config.learner(family, 2, exact(0, "learner"), policy=policy, outer_num_envs=outer)
        first = learner.gradient(start)
        start = (start - 0.1 * first.inner).requires_grad_()
        second = learner.gradient(start, second_order=True)
        (curvature,) = torch.autograd.grad(second.inner.square().sum(), start)
        measured.append([first.inner, first.outer, second.inner.detach(), second.outer, curvature])
        measured[-1] = [value if policy is module else value[:, columns] for value in measured[-1]]
        assert bool(curvature.any())
    for expected, actual in zip(*measured, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("family", ["acrobot", "pendulum"])
def test_fresh_episodes_are_played_alike(family):
    family = make_family(family)
    module, stacked = separate(family), ActorCritic(family, width=8)
    theta = stacked.initial_parameters(3, exact(0, "theta"))
    tasks = family.sample_tasks(3, exact(0, "tasks"))
    columns = columns_of(module.layout(), stacked.layout())
    expected = play_episodes(stacked, theta, tasks, 2, exact(0, "play")).returns
    torch.testing.assert_close(
        play_episodes(module, theta[:, columns], tasks, 2, exact(0, "play")).returns, expected
    )


@pytest.mark.parametrize("objective", list(SETTINGS))
def test_learners_side_by_side_equal_each_by_itself(objective):
    """Replicas meet the same random numbers, as learners by themselves with the same seed do."""
    family = ImageCatch()
    policy = ModulePolicy(family, Convolutional)
    theta = policy.initial_parameters(3, exact(0, "theta"))
    outer = 0 if objective == "reinforce" else 2
    together = SETTINGS[objective].learner(
        family, 3, exact(0, "run", replicas=3), policy=policy, outer_num_envs=outer
    )
    sample = together.gradient(theta)
    for row in range(3):
        alone = SETTINGS[objective].learner(family, 1, exact(0, "run"), policy=policy, outer_num_envs=outer)
        single = alone.gradient(theta[row : row + 1])
        torch.testing.assert_close(sample.inner[row], single.inner[0], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(sample.outer[row], single.outer[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("objective", list(SETTINGS))
def test_stacked_perceptrons_flatten_images(objective):
    inner = []
    for family in (Catch(), ImageCatch()):
        learner = SETTINGS[objective].learner(family, 2, derive_noise(0, "x"))
        inner.append(learner.gradient(learner.initial_parameters()).inner)
    assert bool(inner[0].any())
    assert torch.equal(*inner)


def train(learner, updates, lr):
    rule, theta = Adam(), learner.initial_parameters()
    state = rule.init_state(learner.layout, learner.batch)
    for _ in range(updates):
        change, state = rule(StepInput(learner.gradient(theta).inner, theta, lr, learner.layout), state)
        theta = theta + change
    return theta


def test_a_convolutional_policy_learns_from_images():
    family = ImageCatch()
    config = A2C(num_envs=32, num_steps=18, gamma=1.0, normalize_advantage="batch")
    policy, noise = ModulePolicy(family, Convolutional), derive_noise(0, "images")
    tasks = family.default_tasks(6, noise)
    learner = config.learner(family, 6, noise, tasks=tasks, policy=policy)
    before = play_episodes(policy, policy.initial_parameters(6, noise), tasks, 64, noise).returns.mean(1)
    after = play_episodes(policy, train(learner, 60, lr=1e-2), tasks, 64, noise).returns.mean(1)
    assert float(before.mean()) < -0.5
    assert float(after.mean()) > 0.4
    assert bool((after > before + 0.3).all())


def test_parameters_are_the_modules_own_initialisation_drawn_for_each_learner():
    family = make_family("cartpole")

    class Fixed(Separate):
        def __init__(self):
            super().__init__(4, 2)
            nn.init.orthogonal_(self.actor[0].weight, gain=3.0)
            nn.init.constant_(self.critic[4].bias, 7.0)

    policy = ModulePolicy(family, Fixed)
    layout = policy.layout()
    first = policy.initial_parameters(4, derive_noise(0, "a"))
    tensors = layout.split(first)
    weight = tensors["actor.0.weight"]
    torch.testing.assert_close(weight.transpose(1, 2) @ weight, 9 * torch.eye(4).expand(4, 4, 4))
    assert bool((tensors["critic.4.bias"] == 7).all())
    assert len({tuple(row.tolist()) for row in weight.flatten(1)}) == 4
    assert torch.equal(first, policy.initial_parameters(4, derive_noise(0, "a")))
    assert not torch.equal(first, policy.initial_parameters(4, derive_noise(1, "a")))
    replicas = policy.initial_parameters(4, derive_noise(0, "a", replicas=2))
    assert torch.equal(replicas[:2], replicas[2:])
    assert not torch.equal(replicas[0], replicas[1])


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    family = ImageCatch()
    policy = ModulePolicy(family, Convolutional)
    learner = SETTINGS["a2c"].learner(family, 2, derive_noise(0, "x"), policy=policy)
    learner.gradient(learner.initial_parameters())
    assert torch.equal(before, torch.get_rng_state())


def test_layouts_name_tensors_and_tell_roles_where_names_do():
    discrete = ModulePolicy(ImageCatch(), Convolutional).layout()
    roles = {spec.name: spec.role for spec in discrete.specs}
    assert roles == {
        "trunk.0.weight": None,
        "trunk.0.bias": None,
        "trunk.3.weight": None,
        "trunk.3.bias": None,
        "action_net.weight": None,
        "action_net.bias": None,
        "value_net.weight": "critic",
        "value_net.bias": "critic",
    }
    assert {spec.name: spec.shape for spec in discrete.specs}["trunk.3.weight"] == (32, 400)
    family = make_family("navigation2d")
    told = {spec.name: spec.role for spec in separate(family).layout().specs}
    assert {told[name] for name in told if name.startswith("actor")} == {"actor"}
    assert told["log_std"] == "actor"


def test_a_modules_own_log_std_is_the_policys():
    family = make_family("navigation2d")

    class Agent(Separate):
        def __init__(self):
            super().__init__(2, 2)
            self.log_std = nn.Parameter(torch.full((1, 2), -1.0))

    own, beside = ModulePolicy(family, Agent), separate(family)
    for policy, value in ((own, -1.0), (beside, INITIAL_LOG_STD)):
        tensors = policy.layout().split(policy.initial_parameters(2, derive_noise(0, "x")))
        bounded = policy.log_std(tensors)
        torch.testing.assert_close(bounded, torch.full((2, 1, 2), value), atol=0.02, rtol=0)
    assert own.layout().size == beside.layout().size


@pytest.mark.parametrize("how", ["buffer", "frozen"])
def test_a_log_std_that_is_a_constant_stays_one(how):
    class Agent(Separate):
        def __init__(self):
            super().__init__(2, 2)
            if how == "buffer":
                self.register_buffer("log_std", torch.full((2,), -1.0))
            else:
                self.log_std = nn.Parameter(torch.full((2,), -1.0), requires_grad=False)

    policy = ModulePolicy(make_family("navigation2d"), Agent)
    tensors = policy.layout().split(policy.initial_parameters(3, derive_noise(0, "x")))
    assert "log_std" not in tensors
    torch.testing.assert_close(policy.log_std(tensors), torch.full((3, 1, 2), -1.0), atol=0.02, rtol=0)


def test_outputs_in_a_tuple_of_their_own_and_memory_that_is_a_number_are_understood():
    class Alone(Separate):
        def forward(self, observations):
            return (super().forward(observations)[0],)

    class Counting(Separate):
        def initial_memory(self, rows):
            return torch.zeros(rows)

        def forward(self, observations, memory):
            return *super().forward(observations), memory + 1

    family = make_family("cartpole")
    assert not ModulePolicy(family, lambda: Alone(4, 2)).values
    policy = ModulePolicy(family, lambda: Counting(4, 2))
    tensors = policy.layout().split(policy.initial_parameters(1, derive_noise(0, "x")))
    seen = torch.zeros(1, 3, 4)
    assert policy.acting(tensors)(seen, policy.initial_memory(seen))[1].flatten().tolist() == [1.0] * 3


def test_tied_parameters_are_one_and_frozen_ones_constants():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            self.second.weight = self.first.weight
            self.head.weight.requires_grad_(False)
            self.register_buffer("shift", torch.ones(2))

        def forward(self, x):
            return self.head(self.second(self.first(x))) + self.shift

    family = make_family("cartpole")
    policy = ModulePolicy(family, Tied)
    assert [spec.name for spec in policy.layout().specs] == [
        "first.weight",
        "first.bias",
        "second.bias",
        "head.bias",
    ]
    theta = policy.initial_parameters(2, derive_noise(0, "x")).requires_grad_()
    observations = derive_noise(1, "x").normal(2, 5, 4)
    policy.actor(policy.layout().split(theta), observations).square().sum().backward()
    center, scale = policy.normalization(observations)
    for row in range(2):
        module = Tied()
        values = {name: tensor[row] for name, tensor in policy.layout().split(theta.detach()).items()}
        module.load_state_dict(
            {**values, "second.weight": values["first.weight"]}
            | {"head.weight": policy.module.head.weight, "shift": torch.ones(2)}
        )
        module((observations[row] - center) / scale).square().sum().backward()
        expected = torch.cat([p.grad.flatten() for p in module.parameters() if p.requires_grad])
        torch.testing.assert_close(theta.grad[row], expected, rtol=1e-4, atol=1e-5)


class Cells(nn.Module):
    """Cells of a board are 0 or 1, and an embedding bears no other numbers."""

    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.Embedding(2, 3), nn.LazyLinear(3)

    def forward(self, images):
        return self.head(self.cells(images.long()).flatten(1))


def test_modules_are_tried_on_observations_that_could_be():
    family = ImageCatch()
    policy = ModulePolicy(family, Cells)
    learner = SETTINGS["dqn"].learner(family, 2, derive_noise(0, "x"), policy=policy)
    gradient = learner.layout.split(learner.gradient(learner.initial_parameters()).inner)
    assert bool(gradient["cells.weight"].flatten(1).any(1).all())


class Wrapped(nn.Module):
    """A layer on the way to cartpole's logits."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.layer(x))


class Looking(Wrapped):
    def forward(self, x):
        return self.head(x) if bool(x.sum() > 0) else self.head(-x)


class Noisy(Wrapped):
    def forward(self, x):
        return self.head(x + torch.randn_like(x))


SHARED = nn.Linear(4, 2)
REFUSED = {
    "BatchNorm": (lambda: Wrapped(nn.BatchNorm1d(4)), "changes the module's buffer layer.running_mean"),
    "no statistics": (lambda: Wrapped(nn.BatchNorm1d(4, track_running_stats=False)), "mixes the rows"),
    "dropout": (lambda: Wrapped(nn.Dropout(0.5)), "draws random numbers"),
    "noise": (lambda: Noisy(nn.Identity()), "draws random numbers"),
    "control flow": (lambda: Looking(nn.Identity()), "vmap cannot batch the module"),
    "no module": (lambda: torch.tanh, "must return a torch.nn.Module"),
    "no parameters": (nn.Identity, "no parameters to train"),
    "shape": (lambda: nn.Linear(4, 3), r"must return outputs \(R, 2\) .* returned \(3, 3\)"),
    "list": (lambda: nn.GRU(4, 2), "must return outputs"),
    "same object": (lambda: SHARED, "must build a new module at every call"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_modules_that_cannot_be_a_policy_are_refused_in_one_sentence(case):
    make, complaint = REFUSED[case]
    with pytest.raises(ValueError, match=complaint) as refusal:
        ModulePolicy(make_family("cartpole"), make)
    assert "\n" not in str(refusal.value)


def test_a_module_whose_architecture_changes_is_refused():
    widths = iter(range(8, 99))
    with pytest.raises(ValueError, match="same architecture at every call"):
        ModulePolicy(make_family("cartpole"), lambda: perceptron(4, 2, next(widths)))


def test_a_log_std_of_another_size_is_refused():
    class Agent(Separate):
        def __init__(self):
            super().__init__(2, 2)
            self.log_std = nn.Parameter(torch.zeros(3))

    with pytest.raises(ValueError, match="must hold 2 numbers"):
        ModulePolicy(make_family("navigation2d"), Agent)


def test_learners_refuse_policies_that_do_not_suit_them():
    family = make_family("cartpole")
    blind = ModulePolicy(family, lambda: nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"needs values: let the policy's module return \(output, value\)"):
        A2C().learner(family, 2, derive_noise(0, "x"), policy=blind)
    with pytest.raises(ValueError, match="made for another family"):
        SETTINGS["dqn"].learner(make_family("cartpole"), 2, derive_noise(0, "x"), policy=blind)
    continuous = separate(make_family("navigation2d"))
    with pytest.raises(ValueError, match="needs discrete actions"):
        SETTINGS["dqn"].learner(continuous.family, 2, derive_noise(0, "x"), policy=continuous)


def test_the_linear_baseline_refuses_large_images():
    class Large(ImageCatch):
        def __init__(self):
            super().__init__()
            self.observation_space = spaces.Box(0.0, 1.0, (3, 64, 64), np.float32)

    with pytest.raises(ValueError, match="up to 1024 numbers, and those of catch have 12288"):
        SETTINGS["reinforce"].learner(Large(), 1, derive_noise(0, "x"))
