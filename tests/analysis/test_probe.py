import numpy as np
import pytest
import torch

from learned_opt.analysis.interpret.probe import navigation_paths, response, trace
from learned_opt.analysis.interpret.probe_plots import plot_paths, plot_probe
from learned_opt.rules import SGD, Adam, CoordinatewiseLSTM


def test_adam_answers_to_the_momentum_alone():
    found = response(Adam())
    middles = (found.momentum_edges[1:] + found.momentum_edges[:-1]) / 2
    seen = np.isfinite(found.update)
    assert seen.mean() > 0.4
    expected = np.broadcast_to(-middles, found.update.shape)
    np.testing.assert_allclose(found.update[seen], expected[seen], atol=0.05)


def test_the_response_of_a_learned_rule_is_odd():
    rule = CoordinatewiseLSTM(4, skip=True)
    with torch.no_grad():
        rule.head.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    found = response(rule).update
    both = np.isfinite(found) & np.isfinite(found[::-1, ::-1])
    assert both.mean() > 0.3
    gap = (found + found[::-1, ::-1])[both]
    assert np.abs(gap).mean() < 0.15 * np.abs(found[both]).mean()


@pytest.mark.parametrize("family", ["cartpole", "pendulum"])
def test_the_effective_rate_of_adam_is_its_learning_rate(family):
    found = trace(Adam(), family, updates=5, learners=3, lr=0.02)
    assert found.rates.shape == found.alignment.shape == (5, len(found.tensors))
    np.testing.assert_allclose(found.rates, 0.02, rtol=1e-4)
    np.testing.assert_allclose(found.alignment, 1.0, rtol=1e-4)


def test_another_rule_has_another_rate_and_direction():
    found = trace(SGD(momentum=0.0), "cartpole", updates=5, learners=3, lr=0.1)
    assert found.rates.std() > 0
    assert (found.alignment[1:] < 0.999).any()


def test_walks_start_at_the_origin_before_and_after_learning():
    paths = navigation_paths(Adam(), moments=(0, 3), tasks=2, walks=4, lr=0.01)
    assert paths.positions.shape == (2, 2, 4, 101, 2)
    assert not paths.positions[..., 0, :].any()
    assert (np.abs(np.diff(paths.positions, axis=-2)) <= 0.1 + 1e-6).all()
    assert (paths.positions[0] != paths.positions[1]).any()
    with pytest.raises(ValueError, match="increase from 0"):
        navigation_paths(Adam(), moments=(3, 0))


def test_pictures_are_drawn(tmp_path):
    adam = Adam()
    traces = [trace(adam, "pendulum", updates=3, learners=2)]
    figure = plot_probe({"adam": response(adam)}, traces, tmp_path / "probe.png")
    assert {axes.get_title() for axes in figure.axes} >= {"adam", "pendulum"}
    (legend,) = figure.subfigs[1].legends
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1, "of one family, too, the legend is within the figure"
    assert len(legend.get_texts()) == 7
    paths = navigation_paths(adam, moments=(0, 2), tasks=2, walks=1)
    plot_paths({"adam": paths, "again": paths}, tmp_path / "paths.png")
    for name in ("probe.png", "paths.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
