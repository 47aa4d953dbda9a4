"""The noise of a choice: Philox 4x32-10, counter-based, so that it has no state and no order.

Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011).

    key     = the 64-bit seed (low word, high word)
    counter = (token // 4, position, 0, 0), and the token's word is number token % 4 of the four
    u       = ((word >> 9) + 0.5) * 2^-23, exact in float32 and never 0 or 1
    noise   = -log(-log u), a standard Gumbel variable

The argmax of logits + noise is a draw from softmax(logits). The edge has the numpy form and the
server the torch form; both run the rounds below, so their words are equal bit for bit, and their
noise to the rounding of the two libraries' float32 logarithms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # an edge need not have torch, so only the functions that use it import it
    from torch import Tensor

Words = TypeVar("Words", NDArray[Any], "Tensor")

MASK = 0xFFFFFFFF  # of a word: the 32 bits by definition of Philox 4x32
# What each round multiplies two of the four words by: Salmon, Moraes, Dror and Shaw, "Parallel
# Random Numbers: As Easy as 1, 2, 3" (2011).
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
# What each round adds to the two words of the key, in the same paper: 32 bits each of the golden
# ratio and of the root of 3, less 1.
WEYL = (0x9E3779B9, 0xBB67AE85)
NUM_ROUNDS = 10  # of a choice's noise; the number that the same paper recommends

# A temperature below this is 0: no noise, and no quotient that overflows. It is vLLM's own number.
GREEDY_BELOW = 1e-5


def philox(
    counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]
) -> tuple[Words, Words, Words, Words]:
    """The four random words of each counter.

    The words are 32-bit values in 64-bit arrays (numpy uint64 or torch int64) whose shapes
    broadcast to one another's. torch's product is signed and wraps, which leaves its 64 bits right:
    masking after the shift drops the sign that the shift smears.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for number in range(NUM_ROUNDS):
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c2 = product1 >> 32, product0 >> 32
        if number < 2:
            # Part of the words is still the same along a row or a column: broadcast, so that their
            # products are computed once.
            c0 = (c0 ^ c1 ^ k0) & MASK
            c2 = (c2 ^ c3 ^ k1) & MASK
        else:  # of full shape by now, and ours: in place is twice as fast as not
            c0 ^= c1
            c0 ^= k0
            c0 &= MASK
            c2 ^= c3
            c2 ^= k1
            c2 &= MASK
        c1, c3 = product1, product0  # the low halves; their high ones go when they are next masked
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1 & MASK, c2, c3 & MASK


def signed(seed: int) -> int:
    """A seed, unsigned 64 bits, as torch holds those bits in an int64."""
    return seed - (1 << 64) if seed >> 63 else seed


# The numpy form: seeds uint64 [n], positions integer [n].


def words_numpy(
    seeds: NDArray[np.uint64], positions: NDArray[np.integer], num_tokens: int
) -> NDArray[np.uint32]:
    """The random word of every token: uint32 [n, num_tokens]."""
    seeds = np.asarray(seeds, np.uint64)[:, None]
    blocks = np.arange((num_tokens + 3) // 4, dtype=np.uint64)[None]
    position = np.asarray(positions).astype(np.uint64)[:, None]
    zero = np.zeros((1, 1), np.uint64)
    words = philox((blocks, position, zero, zero), (seeds & MASK, seeds >> 32))
    interleaved = np.stack(words, axis=-1).astype(np.uint32)
    return interleaved.reshape(len(seeds), 4 * blocks.size)[:, :num_tokens]


def gumbel_numpy(
    seeds: NDArray[np.uint64], positions: NDArray[np.integer], num_tokens: int
) -> NDArray[np.float32]:
    """The noise of every token: float32 [n, num_tokens]."""
    return _gumbel(words_numpy(seeds, positions, num_tokens))


def gumbel_of(
    seeds: NDArray[np.uint64], positions: NDArray[np.integer], tokens: NDArray[np.integer]
) -> NDArray[np.float32]:
    """The noise of single tokens, one for each seed and position: float32 [n]."""
    zero = np.zeros(1, np.uint64)
    tokens = tokens.astype(np.uint64)
    seeds = np.asarray(seeds, np.uint64)
    counter = (tokens >> 2, positions.astype(np.uint64), zero, zero)
    words = np.stack(philox(counter, (seeds & MASK, seeds >> 32)))
    return _gumbel(words[(tokens & 3).astype(np.int64), np.arange(len(tokens))])


def _gumbel(words: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.float32]:
    high = words >> 9
    u = (high.astype(np.float32) + np.float32(0.5)) * np.float32(2**-23)
    noise: NDArray[np.float32] = -np.log(-np.log(u))
    return noise


# The torch form: seeds int64 [n] (see `signed`), positions int64 [n], on any device.


def _words_of_blocks(seeds: Tensor, positions: Tensor, blocks: Tensor) -> tuple[Tensor, ...]:
    """int64 [n, m] for each word number, which is that of token 4 * block + number; blocks: [1 or
    n, m]."""
    import torch

    seeds = seeds[:, None]
    zero = torch.zeros_like(blocks[:, :1])
    key = (seeds & MASK, (seeds >> 32) & MASK)
    return philox((blocks, positions[:, None], zero, zero), key)


def gumbel_torch(seeds: Tensor, positions: Tensor, num_tokens: int) -> Tensor:
    """The noise of every token: float32 [n, num_tokens]."""
    import torch

    blocks = torch.arange((num_tokens + 3) // 4, device=seeds.device)[None]
    words = _words_of_blocks(seeds, positions, blocks)
    noise = torch.empty(*words[0].shape, 4, device=seeds.device)
    for number, word in enumerate(words):
        noise[..., number] = word >> 9  # interleaved as float32: half of what int64 would move
    return _to_gumbel(noise).flatten(1)[:, :num_tokens]


def gumbel_of_torch(seeds: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
    """The noise of some tokens of each row, int64 [n, m]: float32 [n, m]."""
    import torch

    words = torch.stack(_words_of_blocks(seeds, positions, tokens >> 2))
    noise = (words.gather(0, (tokens & 3)[None])[0] >> 9).float()
    return _to_gumbel(noise)


def _to_gumbel(noise: Tensor) -> Tensor:
    """In place, from the upper 23 bits of random words."""
    noise.add_(0.5).mul_(2.0**-23)
    return noise.log_().neg_().log_().neg_()
