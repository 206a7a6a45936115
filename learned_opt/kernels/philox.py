"""Random numbers that depend on a key and a place alone: by philox.c, or the same bits in torch.

The generator is Philox 4x32-10 of Salmon, Moraes, Dror and Shaw 2011 ("Parallel random numbers: as easy as
1, 2, 3"): ten rounds of multiplication turn a counter of four 32-bit words and a key of two into four words.
Any number of any learner can be had without those before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learned_opt.kernels import native
from learned_opt.kernels.addresses import address

KEYS = 2**64
_WORD = 0xFFFFFFFF


def random(
    key: int, drawn: Tensor, within: int, first: int, rows: int, count: int, *, normal: bool
) -> Tensor:
    """Uniform numbers in [0, 1) or standard normal ones, (R, n) float32, on the device of `drawn`.

    Number j of a row is made of word j % 4 of the block at the counter (j // 4, within, row, drawn), so that
    the first numbers of a row do not depend on how many there are. Uniform ones have 24 bits; normal ones, by
    Box and Muller 1958, are within 5.8.

    Args:
        key: below 2⁶⁴.
        drawn: how many draws there were, () int64, one more afterwards; below 2³².
        within: 0, or which draw this is of several that count as one; then `drawn` stays.
        first: place of the first row among all.
        rows: R.
        count: n.
        normal: which of the two.
    """
    if drawn.is_cpu and (library := native.library("philox")) is not None:
        made = torch.empty(rows, count, dtype=torch.float32, device="cpu")
        library.learned_opt_random(
            key,
            address("draws", drawn, (), torch.int64),
            within,
            first,
            rows,
            count,
            normal,
            address("random numbers", made, (rows, count)),
        )
        return made
    device = drawn.device
    block = torch.arange((count + 3) // 4, device=device)
    row = torch.arange(first, first + rows, device=device).unsqueeze(1)
    words = mixed((block, torch.full_like(block, within), row, drawn), key)
    if within == 0:
        drawn += 1
    if normal:
        numbers = [*_normals(*words[:2]), *_normals(*words[2:])]
    else:
        numbers = [_upper_bits(word) * 2.0**-24 for word in words]
    return torch.stack(numbers, -1).flatten(1)[:, :count].contiguous()


def mixed(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words that a counter of four becomes; words are int64 below 2³², of shapes that broadcast."""
    a, b, c, d = counter
    low, high = key & _WORD, key >> 32
    for _ in range(10):
        x, y = a * 0xD2511F53, c * 0xCD9E8D57  # modulo 2⁶⁴, of which the sign is a bit like others
        a, b, c, d = (y >> 32 & _WORD) ^ b ^ low, y & _WORD, (x >> 32 & _WORD) ^ d ^ high, x & _WORD
        low, high = low + 0x9E3779B9 & _WORD, high + 0xBB67AE85 & _WORD
    return a, b, c, d


def _upper_bits(word: Tensor) -> Tensor:
    return (word >> 8).to(torch.float32)


def _normals(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """As in philox.c, operation by operation."""
    squared = _logarithm((_upper_bits(first) + 1) * 2.0**-24) * -2
    radius = squared.double().sqrt().float()  # torch rounds roots of float32 otherwise than C
    turned = second + 2**29
    quarter = turned >> 30 & 3
    angle = ((turned & 2**30 - 1) - 2**29).to(torch.float32) * 1.46291807926715968e-9
    s = angle * angle
    sine = s * -1.9515295891e-4 + 8.3321608736e-3
    sine = sine * s - 1.6666654611e-1
    sine = sine * s * angle + angle
    cosine = s * 2.443315711809948e-5 - 1.388731625493765e-3
    cosine = cosine * s + 4.166664568298827e-2
    cosine = cosine * s * s - s * 0.5 + 1
    odd = (quarter & 1).bool()
    x, y = torch.where(odd, sine, cosine), torch.where(odd, cosine, sine)
    left, below = (quarter + 1 >> 1 & 1).bool(), (quarter >> 1).bool()
    return radius * torch.where(left, -x, x), radius * torch.where(below, -y, y)


def _logarithm(x: Tensor) -> Tensor:
    """As in vectors.h, operation by operation."""
    bits = x.view(torch.int32)
    k = bits - 0x3F3504F3 >> 23
    m = (bits - (k << 23)).view(torch.float32)
    s = (m - 1) / (m + 1)
    t = s * s
    series = t * (1 / 9) + 1 / 7
    for term in (1 / 5, 1 / 3, 1.0):
        series = series * t + term
    return 2 * s * series + k.to(torch.float32) * 0.693147181
