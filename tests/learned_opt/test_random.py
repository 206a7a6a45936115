"""Random numbers are those of their key: in every engine, whoever else draws, and however many."""

import numpy as np
import pytest
import torch

from learned_opt import engine
from learned_opt.kernels import native, philox
from learned_opt.tasks import Noise, Shard
from learned_opt.tasks.random import derive_noise

ONES = 0xFFFFFFFF
ENGINES = [
    "torch",
    pytest.param(
        "auto", marks=pytest.mark.skipif(native.why_not("philox") is not None, reason="nothing is compiled")
    ),
]
KNOWN = [  # of Random123's kat_vectors: counter, key, words
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_words_are_those_of_random123(counter, key, words):
    assert philox.mixed(tuple(map(torch.tensor, counter)), key) == words


@pytest.mark.parametrize("name", ENGINES)
def test_the_first_uniform_numbers_are_the_upper_bits_of_the_first_words(name):
    with engine(name):
        drawn = Noise(0).uniform(1, 4)
    assert drawn.tolist() == [[(word >> 8) / 2**24 for word in KNOWN[0][2]]]


@pytest.mark.skipif(native.why_not("philox") is not None, reason="nothing is compiled")
@pytest.mark.parametrize("shape", [(1,), (3, 5), (16, 3, 41), (2, 1024), (5, 0), (0, 4)])
@pytest.mark.parametrize("seed", [0, 2**63 - 1, -1])
def test_both_engines_draw_the_same_bits(shape, seed):
    def drawn(name):
        source = Noise(seed, shard=Shard(2, 3))
        with engine(name):
            numbers = [source.uniform(*shape), source.normal(*shape)]
            with source.scope():
                numbers += [source.normal(*shape), source.uniform(*shape)]
            return [*numbers, source.normal(*shape), source.drawn]

    assert all(map(torch.equal, drawn("auto"), drawn("torch")))


@pytest.mark.parametrize("name", ENGINES)
def test_numbers_are_distributed_as_they_should_be(name):
    """Kolmogorov's distance of n numbers from their distribution exceeds 1.95 / √n once in 1,000 times."""
    with engine(name):
        source, count = Noise(1), 2**17
        uniform, normal = source.uniform(4, count // 4), source.normal(4, count // 4)
    places = (torch.arange(count) + 0.5) / count
    for share in (uniform.double(), torch.special.ndtr(normal.double())):
        assert float((share.flatten().sort()[0] - places).abs().max()) < 1.95 / count**0.5
    for numbers in (uniform - 0.5, normal):
        for one, other in ((numbers[:, 1:], numbers[:, :-1]), (numbers[1:], numbers[:-1])):
            assert abs(torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1]) < 0.012
    assert 4 < float(normal.abs().max()) < 5.8
    assert 0 <= float(uniform.min()) < float(uniform.max()) < 1


def test_a_learners_numbers_are_its_own():
    """They depend neither on how many others there are nor on how many numbers it gets."""
    many, few = derive_noise(0, "x"), derive_noise(0, "x")
    for kind in ("uniform", "normal"):
        assert torch.equal(getattr(many, kind)(6, 9)[:2, :4], getattr(few, kind)(2, 4))
    rows = derive_noise(0, "x").uniform(6, 9)
    assert len({tuple(row) for row in rows.tolist()}) == 6


def test_replicas_share_their_numbers_and_draws_do_not():
    source = Noise(0, replicas=2)
    first, second = source.normal(6, 3), source.normal(6, 3)
    assert torch.equal(first[:3], first[3:])
    assert torch.equal(first[:3], Noise(0).normal(3, 3))
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="no multiple of 2"):
        source.uniform(3)


def test_a_scope_counts_as_one_draw_however_many_there_are_within():
    following, within = [], []
    for count in (0, 1, 3):
        source = Noise(0)
        source.uniform(2, 3)
        with source.scope():
            for _ in range(count):
                with source.scope():
                    within.append(source.uniform(2, 3))
        following.append(source.uniform(2, 3))
    assert torch.equal(following[0], following[1])
    assert torch.equal(following[0], following[2])
    assert torch.equal(within[0], within[1])
    different = torch.stack((*within[1:], following[0], Noise(0).uniform(2, 3)))
    assert len(different.unique()) == different.numel()


def test_branches_are_sources_of_their_own():
    source = Noise(0, shard=Shard(1, 2))
    numbers = [source.branch("a").uniform(2, 4), source.branch("b").uniform(2, 4), source.uniform(2, 4)]
    assert len(torch.stack(numbers).unique()) == 24
    assert torch.equal(numbers[0], Noise(0).branch("a").uniform(4, 4)[2:])


def test_all_that_changes_is_one_tensor_that_stays_where_it_is():
    source = Noise(3)
    counted, before = source.drawn, source.drawn.clone()
    expected = [source.normal(2, 2), source.uniform(2, 2)]
    assert source.drawn is counted
    assert source.drawn == 2
    source.drawn.copy_(before)
    assert all(map(torch.equal, expected, [source.normal(2, 2), source.uniform(2, 2)]))


def test_double_precision_has_the_numbers_of_single():
    assert torch.equal(Noise(0, dtype=torch.float64).normal(3, 4), Noise(0).normal(3, 4).double())


def test_a_seed_is_an_integer():
    with pytest.raises(TypeError, match="integer"):
        Noise(torch.Generator())
    assert Noise(np.int64(3)).uniform(2, 3).equal(Noise(3).uniform(2, 3))
