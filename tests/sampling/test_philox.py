from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wisp.sampling.philox import (
    gumbel_numpy,
    gumbel_torch,
    philox,
    signed,
    words_numpy,
)

# Random123's known answers for philox4x32-10: counter, key, words.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip

SEED = st.integers(0, 2**64 - 1)
POSITION = st.integers(0, 2**31 - 1)


def hexes(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def mulhilo(a: int, b: int) -> tuple[int, int]:
    return (a * b) >> 32, (a * b) & 0xFFFFFFFF


def plain_philox(counter: list[int], key: list[int]) -> list[int]:
    """Figure 4 of the paper, in Python's own integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        (high0, low0), (high1, low1) = mulhilo(c[0], 0xD2511F53), mulhilo(c[2], 0xCD9E8D57)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter: str, key: str, words: str) -> None:
    c0, c1, c2, c3, k0, k1 = (np.array([w], np.uint64) for w in hexes(f"{counter} {key}"))
    assert [int(w[0]) for w in philox((c0, c1, c2, c3), (k0, k1))] == hexes(words)
    t0, t1, t2, t3, j0, j1 = (torch.tensor([w]) for w in hexes(f"{counter} {key}"))
    assert [int(w[0]) for w in philox((t0, t1, t2, t3), (j0, j1))] == hexes(words)
    assert plain_philox(hexes(counter), hexes(key)) == hexes(words)


def test_the_inputs_are_left_alone() -> None:
    inputs = [torch.full((2, 3), 7 + i) for i in range(6)]
    c0, c1, c2, c3, k0, k1 = inputs
    philox((c0, c1, c2, c3), (k0, k1))
    assert all(bool((tensor == 7 + i).all()) for i, tensor in enumerate(inputs))


@given(SEED, POSITION, st.integers(1, 40))
def test_a_word_has_the_address_that_the_law_gives_it(
    seed: int, position: int, num_tokens: int
) -> None:
    words = words_numpy(np.array([seed], np.uint64), np.array([position]), num_tokens)
    assert words.dtype == np.uint32
    assert words.shape == (1, num_tokens)
    key = [seed & 0xFFFFFFFF, seed >> 32]
    expected = [
        plain_philox([token // 4, position, 0, 0], key)[token % 4] for token in range(num_tokens)
    ]
    assert words[0].tolist() == expected


@given(st.lists(st.tuples(SEED, POSITION), min_size=1, max_size=5), st.integers(1, 70))
def test_numpy_and_torch_agree(keys: list[tuple[int, int]], num_tokens: int) -> None:
    seeds = np.array([seed for seed, _ in keys], np.uint64)
    positions = np.array([position for _, position in keys], np.int64)
    signed_seeds = torch.tensor([signed(seed) for seed, _ in keys])
    noise = gumbel_torch(signed_seeds, torch.from_numpy(positions), num_tokens)
    here = gumbel_numpy(seeds, positions, num_tokens)
    assert noise.dtype == torch.float32
    assert here.dtype == np.float32
    np.testing.assert_allclose(noise.numpy(), here, rtol=1e-6, atol=1e-6)


@given(SEED)
def test_signed_keeps_the_bits(seed: int) -> None:
    assert signed(seed) % 2**64 == seed
    assert np.array([seed], np.uint64).view(np.int64)[0] == signed(seed)


def test_noise_follows_its_formula() -> None:
    seeds, positions = np.array([2**63 + 5, 9], np.uint64), np.array([0, 70_000])
    words = words_numpy(seeds, positions, 1000).astype(np.float64)
    u = (np.floor(words / 512) + 0.5) / 2**23
    np.testing.assert_allclose(
        gumbel_numpy(seeds, positions, 1000), -np.log(-np.log(u)), rtol=2e-5, atol=2e-6
    )


def test_noise_is_a_standard_gumbel() -> None:
    noise = np.sort(gumbel_numpy(np.arange(20, dtype=np.uint64), np.arange(20), 5000).ravel())
    cdf = np.exp(-np.exp(-noise.astype(np.float64)))
    distance = np.abs(cdf - (np.arange(noise.size) + 0.5) / noise.size).max()
    assert distance < 1.95 / np.sqrt(noise.size)  # Kolmogorov and Smirnov, at 0.1 %


@pytest.mark.parametrize("num_tokens", [4093, 4096])
def test_the_noise_of_a_row_has_the_same_bits_in_every_batch(num_tokens: int) -> None:
    seeds, positions = torch.arange(-6, 6) * 2**58, torch.arange(12)
    together = gumbel_torch(seeds, positions, num_tokens)
    for row in range(12):
        alone = gumbel_torch(seeds[row : row + 1], positions[row : row + 1], num_tokens)
        assert torch.equal(alone[0], together[row])


def test_the_numpy_form_does_not_need_torch() -> None:
    script = "import sys; sys.modules['torch'] = None; import wisp.sampling.draft"
    subprocess.run([sys.executable, "-c", script], check=True)
