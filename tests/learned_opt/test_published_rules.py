"""Adam-Rel, Adam under KL control, Ano and Muon, beside their definitions."""

import pytest
import torch

from learned_opt.algorithms import A2C, PPO
from learned_opt.algorithms.inner_loop import train
from learned_opt.analysis.comparison.config import CompareConfig
from learned_opt.layout import ParameterLayout
from learned_opt.rules import Adam
from learned_opt.rules.adam_variants import AdamKL, AdamRel, Ano
from learned_opt.rules.base import StepInput
from learned_opt.rules.muon import Muon, orthogonalized
from learned_opt.tasks import Noise, make_family

LAYOUT = ParameterLayout.of({"weight": (6, 4), "bias": (6,), "head": (1, 6), "filters": (3, 2, 2)})
LR = 1e-2


def gradients(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, LAYOUT.size, generator=generator)


def steps(rule, told):
    """Where a rule has come to after each of some gradients, (K, B, N)."""
    theta, state, path = torch.ones(2, LAYOUT.size), rule.init_state(LAYOUT, 2), []
    for gradient, facts in told:
        update, state = rule(StepInput(gradient, theta, LR, LAYOUT, **facts), state)
        theta = theta + update
        path.append(theta)
    return torch.stack(path)


def column(*values):
    return torch.tensor(values).unsqueeze(1)


def test_adam_rel_is_adam_in_the_first_rollout_and_counts_anew_in_the_next():
    given = gradients(6)
    new = [column(k == 0, k in (0, 3)) for k in range(6)]
    path = steps(AdamRel(), [(g, {"new_rollout": n}) for g, n in zip(given, new, strict=True)])
    adam = steps(Adam(), [(g, {}) for g in given])
    torch.testing.assert_close(path[:, 0], adam[:, 0])
    torch.testing.assert_close(path[:3, 1], adam[:3, 1])
    mean = sum(0.1 * 0.9 ** (3 - k) * given[k, 1] for k in range(4))
    square = sum(0.001 * 0.999 ** (3 - k) * given[k, 1].square() for k in range(4))
    expected = -LR * (mean / 0.1) / ((square / 0.001).sqrt() + 1e-8)
    torch.testing.assert_close(path[3, 1] - path[2, 1], expected, rtol=1e-4, atol=1e-7)


def test_adam_kl_multiplies_the_rate_as_the_divergence_says_and_never_leaves_its_bounds():
    given = gradients(1).expand(60, -1, -1)
    kl = [0.0, 0.03, 0.03, 0.01, 0.004, 0.004, 0.004, *[0.03] * 30]
    path = steps(AdamKL(), [(g, {"kl": column(k, 0.001)}) for g, k in zip(given, kl, strict=False)])
    moved = path.diff(dim=0, prepend=torch.ones(1, 2, LAYOUT.size))
    factor = (moved / moved[0]).mean(-1)  # of one gradient again and again, Adam's steps are all alike
    expected = [
        1,
        1 / 1.5,
        1 / 2.25,
        1 / 2.25,
        1 / 1.5,
        1,
        1,
        *[max(1.5**-k, 1e-5 / LR) for k in range(1, 31)],
    ]
    torch.testing.assert_close(factor[:, 0], torch.tensor(expected), rtol=1e-2, atol=0)
    torch.testing.assert_close(factor[:, 1], torch.ones(37), rtol=1e-2, atol=0)


@pytest.mark.parametrize("rule", [AdamRel(), AdamKL()])
def test_where_nothing_is_said_of_rollouts_such_rules_refuse(rule):
    with pytest.raises(ValueError, match="use PPO"):
        steps(rule, [(gradients(1)[0], {})])


def test_ano_has_the_momentums_sign_and_the_gradients_size():
    given = gradients(5)
    path = steps(Ano(), [(g, {}) for g in given])
    mean = square = torch.zeros_like(given[0])
    theta = torch.ones_like(mean)
    for t, g in enumerate(given, 1):
        mean = 0.92 * mean + 0.08 * g
        square = 0.99 * square + 0.01 * torch.sign(g * g - square) * g * g
        theta = theta - LR / torch.sqrt(square / (1 - 0.99**t) + 1e-8) * g.abs() * torch.sign(mean)
        torch.testing.assert_close(path[t - 1], theta)


def test_muon_is_torchs_for_matrices_and_adam_for_vectors():
    given = gradients(4)
    path = steps(Muon(), [(g, {}) for g in given])[-1]
    tensors = {spec.name: torch.ones(spec.shape, requires_grad=True) for spec in LAYOUT.specs}
    matrices = [tensors["weight"], tensors["head"]]
    theirs = [
        torch.optim.Muon(matrices, LR, weight_decay=0, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam([tensors["bias"]], LR),
    ]
    for gradient in given[:, 0]:
        for name, piece in LAYOUT.split(gradient).items():
            tensors[name].grad = piece.clone()
        for optimizer in theirs:
            optimizer.step()
    ours = LAYOUT.split(path[0])
    torch.testing.assert_close(ours["bias"], tensors["bias"].detach())
    for name in ("weight", "head"):  # torch iterates in bfloat16
        torch.testing.assert_close(ours[name], tensors[name].detach(), rtol=0, atol=0.06 * LR * 4)


def test_orthogonalized_matrices_have_singular_values_near_one():
    for shape in ((3, 8, 5), (3, 5, 8)):
        made = orthogonalized(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
        values = torch.linalg.svdvals(made)
        assert made.shape == shape
        assert values.min() > 0.5
        assert values.max() < 1.3
    assert orthogonalized(torch.zeros(1, 3, 3)).eq(0).all()


@pytest.mark.parametrize("rule", [AdamRel(), AdamKL(), Ano(), Muon()])
def test_ppo_tells_them_what_they_go_by(rule):
    noise = Noise(0)
    inner = PPO(num_envs=4, num_steps=16, update_epochs=2, num_minibatches=2)
    learner = inner.learner(make_family("cartpole"), 2, noise)
    run = train(learner, rule, updates=8, num_evals=2, eval_seed=0, lr=1e-2)
    assert not run.diverged.any()
    assert (run.last - run.first).abs().amax(1).gt(1e-4).all()


def test_a_rollout_is_new_once_in_all_of_its_epochs():
    noise = Noise(0)
    inner = PPO(num_envs=4, num_steps=16, update_epochs=2, num_minibatches=2)
    learner = inner.learner(make_family("cartpole"), 2, noise)
    theta = learner.initial_parameters()
    samples = [learner.gradient(theta) for _ in range(9)]
    assert [bool(sample.new_rollout.all()) for sample in samples] == [k % 4 == 0 for k in range(9)]
    assert all(sample.kl.abs().max() < 1e-6 for sample in samples)
    moved = learner.gradient(theta + 0.1)
    assert moved.kl.gt(0).all()


def test_rules_that_go_by_rollouts_are_compared_under_ppo_alone():
    with pytest.raises(ValueError, match="those of a2c do not: set inner to ppo"):
        CompareConfig(("cartpole",), baselines=("adam-kl",), inner=A2C())
    assert CompareConfig(("cartpole",), baselines=("adam-kl", "adam-rel"), inner=PPO())
