"""One area under learning curves, and one rule for runs that diverged."""

import torch

from learned_opt.algorithms.base import GradientSample
from learned_opt.algorithms.inner_step import is_sound
from learned_opt.algorithms.scores import normalized_auc, normalized_curves
from learned_opt.tasks.references import LOWEST

RANDOM, REFERENCE = torch.tensor([0.0, 0.0, -1.0]), torch.tensor([1.0, 2.0, 1.0])
RETURNS = torch.tensor([[0.0, 0.0, -1.0], [0.5, 2.0, -1.5], [1.0, 2.0, 0.0]])


def test_the_area_is_the_mean_score_after_the_first_update():
    curves = normalized_curves(RETURNS, torch.zeros(3, dtype=torch.bool), RANDOM, REFERENCE)
    torch.testing.assert_close(normalized_auc(curves.scores), torch.tensor([0.75, 1.0, 0.125]))


def test_a_diverged_run_scores_as_the_worst_that_a_sound_one_ever_did():
    curves = normalized_curves(RETURNS, torch.tensor([True, False, False]), RANDOM, REFERENCE)
    assert curves.worst == -0.25
    assert normalized_auc(curves.scores)[0] == -0.25
    endless = RETURNS.clone()
    endless[2, 0] = torch.inf
    unsound = normalized_curves(endless, torch.zeros(3, dtype=torch.bool), RANDOM, REFERENCE)
    assert torch.equal(unsound.scores, curves.scores)


def test_a_diverged_run_is_never_better_than_the_random_policy():
    rising = RETURNS.clamp_min(0.5)
    curves = normalized_curves(rising, torch.tensor([False, False, True]), RANDOM, REFERENCE)
    assert normalized_auc(curves.scores)[2] == 0.0


def test_where_no_run_is_sound_all_have_the_lowest_score():
    curves = normalized_curves(RETURNS, torch.ones(3, dtype=torch.bool), RANDOM, REFERENCE)
    assert bool((curves.scores == LOWEST).all())


def test_whoever_measures_or_holds_a_number_of_no_use_has_diverged():
    def sound(**changes):
        parts = {"inner": torch.ones(1, 3), "parameters": torch.ones(1, 3), "reward": torch.ones(1)}
        for name, value in changes.items():
            parts[name][..., -1] = value
        sample = GradientSample(parts["inner"], parts["inner"], {"reward": parts["reward"]})
        return bool(is_sound(sample, parts["parameters"]))

    assert sound()
    for value in (float("nan"), float("inf"), -float("inf"), 2e15):
        assert not sound(inner=value)
        assert not sound(parameters=value)
    assert not sound(reward=float("nan"))
    assert sound(reward=2e15)
