"""A layout packs named tensors into one vector and back."""

import pytest
import torch

from learned_opt import ParameterLayout
from learned_opt.meta.estimators.presentation import Presentation

LAYOUT = ParameterLayout.of({"conv": (4, 3, 2), "bias": (4,), "scale": ()}, {"bias": "critic"})


def test_split_and_join_are_inverse():
    vector = torch.arange(2.0 * LAYOUT.size).view(2, LAYOUT.size)
    tensors = LAYOUT.split(vector)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        "conv": (2, 4, 3, 2),
        "bias": (2, 4),
        "scale": (2,),
    }
    assert torch.equal(LAYOUT.join(tensors), vector)


def test_split_gives_views():
    vector = torch.zeros(1, LAYOUT.size)
    LAYOUT.split(vector)["bias"].fill_(1)
    assert float(vector.sum()) == 4


def test_facts_tell_rank_position_fan_in_and_role():
    facts = LAYOUT.facts(torch.device("cpu"), torch.float64)
    assert facts[0].tolist() == [0, 1, 1]
    assert facts[1].tolist() == [-1, 0, 1]
    assert facts[2].exp().pow(4).tolist() == pytest.approx([6, 1, 1])
    assert facts[3].tolist() == [0, -1, 0]
    assert LAYOUT.without_roles().facts(torch.device("cpu"), torch.float64)[3].tolist() == [0, 0, 0]


def test_segments_name_each_coordinates_tensor():
    assert LAYOUT.segments(torch.device("cpu")).tolist() == [0] * 24 + [1] * 4 + [2]


def test_empty_layouts_and_repeated_names_are_refused():
    with pytest.raises(ValueError, match="at least one coordinate"):
        ParameterLayout.of({"empty": (0, 3)})
    spec = LAYOUT.specs[0]
    with pytest.raises(ValueError, match="repeat"):
        ParameterLayout((spec, spec))


def test_a_rule_may_be_shown_another_order_of_the_same_vector():
    shown = LAYOUT.as_if_ordered([2, 0, 1])
    assert [spec.name for spec in shown.specs] == [spec.name for spec in LAYOUT.specs]
    assert shown.facts(torch.device("cpu"), torch.float64)[1].tolist() == [0, 1, -1]
    with pytest.raises(ValueError, match="each once"):
        LAYOUT.as_if_ordered([0, 0, 1])


def test_rules_see_the_critic_before_the_actor_in_half_of_all_groups():
    roles = {"a.weight": "actor", "a.bias": "actor", "c.weight": "critic"}
    layout = ParameterLayout.of({"a.weight": (4, 2), "a.bias": (4,), "c.weight": (1, 2)}, roles)
    shown = Presentation(roles=False, critic_first=True).of(layout)
    assert shown.facts(torch.device("cpu"), torch.float64)[1].tolist() == [0, 1, -1]
    assert [spec.role for spec in shown.specs] == [None] * 3
    assert Presentation(roles=True, critic_first=False).of(layout) == layout
