"""The ranking that is made beside the model is the one that an edge makes of its logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from wisp.core.request import Sampling
from wisp.edge.drafter.base import DraftJob, Proposal
from wisp.edge.drafter.propose import propose, propose_ranked
from wisp.sampling.ranking import rank_rows

NUM = 24
TEMPERATURES = [0.0, 0.6, 1.0, 1.5]


def ranked(logits: NDArray[np.float32], jobs: list[DraftJob], ids: Any = None) -> list[Proposal]:
    samplings = [job.sampling or Sampling(max_tokens=1, temperature=0, seed=0) for job in jobs]
    return propose_ranked(
        rank_rows(
            torch.from_numpy(logits),
            [sampling.seed for sampling in samplings],
            [sampling.temperature for sampling in samplings],
            [len(job.tokens) for job in jobs],
            None if ids is None else torch.from_numpy(ids),
        )
    )


def jobs_of(temperatures: list[float]) -> list[DraftJob]:
    seeds = np.random.default_rng(3).integers(2**63, size=NUM).tolist()
    return [
        DraftJob(
            number,
            range(7 * number + 1),
            Sampling(
                max_tokens=1,
                temperature=temperatures[number % len(temperatures)],
                seed=2 * seed + number % 2,  # of all 64 bits
            ),
        )
        for number, seed in enumerate(seeds)
    ]


def same(one: Proposal, other: Proposal) -> None:
    pairs = zip((one, *one.alternatives), (other, *other.alternatives), strict=True)
    left = [1.0, 1.0]
    for mine, others in pairs:
        assert mine.token == others.token
        # Of what is left without the better ones, which may be as little as float32 keeps.
        shares = left[0] * mine.confidence, left[1] * others.confidence
        assert shares[0] == pytest.approx(shares[1], abs=1e-3)
        left = [rest - share for rest, share in zip(left, shares, strict=True)]
        assert mine.likelihood == pytest.approx(others.likelihood, rel=1e-3)
        assert mine.entropy == pytest.approx(others.entropy, abs=2e-2)
        assert mine.plain_entropy == pytest.approx(others.plain_entropy, abs=1e-3)
        assert mine.spread == pytest.approx(others.spread, rel=1e-4)


@pytest.mark.parametrize("vocab_size", [3, 1000, 20000])
@pytest.mark.parametrize("temperatures", [[0.0], [1.0], TEMPERATURES])
def test_it_is_that_of_the_logits(vocab_size: int, temperatures: list[float]) -> None:
    rng = np.random.default_rng(vocab_size)
    scales = rng.uniform(0.5, 12.0, (NUM, 1))  # some are sure of themselves, and others are not
    logits = (rng.standard_normal((NUM, vocab_size)) * scales).astype(np.float32)
    jobs = jobs_of(temperatures)
    for one, other in zip(ranked(logits, jobs), propose(logits, jobs), strict=True):
        same(one, other)


@pytest.mark.parametrize("size", [300, 9000])
def test_a_part_of_the_vocabulary_has_the_noise_of_the_targets_ids(size: int) -> None:
    rng = np.random.default_rng(1)
    logits = (rng.standard_normal((NUM, size)) * 3).astype(np.float32)
    ids = rng.permutation(12_000)[:size]
    jobs = jobs_of(TEMPERATURES)
    for one, other in zip(ranked(logits, jobs, ids), propose(logits, jobs, ids), strict=True):
        same(one, other)


def test_the_lowest_id_wins_a_tie() -> None:
    """Logits of 16 bits have many."""
    logits = np.zeros((1, 500), np.float32)
    logits[0, [7, 300, 41]] = 2.0
    [one] = ranked(logits, [DraftJob(0, [1])])
    assert [one.token, *(each.token for each in one.alternatives)][:3] == [7, 41, 300]
