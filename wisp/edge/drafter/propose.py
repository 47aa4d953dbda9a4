"""From a drafter's logits to its proposals, with the target's own noise and without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wisp.core.extension import Ranking
from wisp.edge.drafter.base import NUM_CANDIDATES, DraftJob, Proposal
from wisp.sampling.draft import Ranked, rank
from wisp.sampling.philox import GREEDY_BELOW

# A logit so far below the highest has no part in any sum. Chosen: its exponential is 0 in float32.
_LOWEST = 200.0


def propose(
    logits: NDArray[np.float32], jobs: Sequence[DraftJob], ids: NDArray[np.int64] | None = None
) -> list[Proposal]:
    """One proposal for each job, of its row of logits [jobs, vocab], with its alternatives.

    `ids` [vocab] are the target's ids of the columns; None: they are the columns' numbers.
    """
    positions = [len(job.tokens) for job in jobs]
    ranked = rank(logits, [job.sampling for job in jobs], positions, NUM_CANDIDATES, ids)
    return [_proposal(*of_job, ids) for of_job in zip(logits, ranked, jobs, strict=True)]


def _proposal(
    row: NDArray[np.float32], ranked: Ranked, job: DraftJob, ids: NDArray[np.int64] | None
) -> Proposal:
    shifted = np.maximum(row - row.max(), -_LOWEST)
    mass = np.exp(shifted)
    total = float(mass.sum())
    plain_entropy = max(0.0, float(np.log(total) - mass.dot(shifted) / total))
    spread = float(row.std())
    likelihoods = (mass[ranked.tokens[: NUM_CANDIDATES + 1]] / total).tolist()
    if job.sampling is None or job.sampling.temperature < GREEDY_BELOW:
        shares, entropy = likelihoods, plain_entropy
    else:
        shares, entropy = _shares(ranked.scores)
    tokens = ranked.tokens[: NUM_CANDIDATES + 1]
    named = (tokens if ids is None else ids[tokens]).tolist()
    return _chain(named, shares, likelihoods, (entropy, plain_entropy, spread))


def propose_ranked(ranking: Ranking) -> list[Proposal]:
    """One proposal for each row of what was ranked beside the model, with its alternatives."""
    num = NUM_CANDIDATES + 1
    of_rows = zip(
        ranking.tokens[:, :num].tolist(),
        ranking.shares[:, :num].tolist(),
        ranking.likelihoods[:, :num].tolist(),
        zip(
            ranking.entropies.tolist(),
            ranking.plain_entropies.tolist(),
            ranking.spreads.tolist(),
            strict=True,
        ),
        strict=True,
    )
    return [_chain(*of_row) for of_row in of_rows]


def _chain(
    tokens: list[int],
    shares: list[float],
    likelihoods: list[float],
    of_row: tuple[float, float, float],
) -> Proposal:
    """`of_row`: entropy, plain entropy and spread."""
    entropy, plain_entropy, spread = of_row
    found: tuple[Proposal, ...] = ()
    left = [1.0 - sum(shares[:index]) for index in range(len(shares))]
    # From the last to the first: each is followed by those behind it.
    for index in reversed(range(min(NUM_CANDIDATES, len(tokens)))):
        rest = max(left[index], shares[index], 1e-9)
        runner_up = shares[index + 1] if index + 1 < len(shares) else 0.0
        candidate = Proposal(
            token=tokens[index],
            confidence=shares[index] / rest,
            entropy=entropy,
            margin=(shares[index] - runner_up) / rest,
            spread=spread,
            likelihood=likelihoods[index],
            plain_entropy=plain_entropy,
            alternatives=found if index == 0 else (),
        )
        found = (candidate, *found)
    return found[0]


def _shares(scores: NDArray[np.float32]) -> tuple[list[float], float]:
    """The candidates' parts of softmax(scores), and its entropy in nats; best first."""
    shifted = scores - scores[0]
    mass = np.exp(shifted)
    total = float(mass.sum())
    entropy = max(0.0, float(np.log(total) - mass.dot(shifted) / total))
    return (mass[: NUM_CANDIDATES + 1] / total).tolist(), entropy
