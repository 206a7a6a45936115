"""A layout packs named tensors into one vector and back."""

import pytest
import torch

from learned_opt import ParameterLayout

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
