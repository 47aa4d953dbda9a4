"""Whole engines whose steps overlap, with edges that draft trees: right, wrong, late and twice."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from tests.vllm.driver import expected, learn, prompts
from tests.world import Propose, World
from wisp.core.batch import Batch, Seat
from wisp.core.drafts import Rejection
from wisp.core.request import Sampling
from wisp.edge.drafter.base import DraftJob
from wisp.edge.tree import Candidate

NUM = 24


def trees(texts: Sequence[Sequence[int]], right: float, covered: float) -> Propose:
    """`right`: how often the first candidate is; `covered`: how often one of the others is."""
    chance = random.Random(3)

    def candidates(job: DraftJob) -> list[Candidate]:
        text = texts[job.key]
        place = len(job.tokens) - len(prompts()[job.key])
        truth = text[place] if place < len(text) else 0
        tokens = [chance.randrange(4096) for _ in range(3)]
        if chance.random() < right:
            tokens[0] = truth
        elif chance.random() < covered:
            tokens[chance.randrange(1, 3)] = truth
        return [Candidate(token, 0.6 * 0.4**rank) for rank, token in enumerate(tokens)]

    return lambda jobs: [candidates(job) for job in jobs]


@pytest.mark.parametrize(
    ("right", "covered", "delays"),
    [(0.7, 0.9, (0,)), (0.7, 0.9, (0, 2, 5)), (0.5, 0.5, (3,)), (0.0, 0.0, (0,))],
    ids=["near", "twice", "late", "lying"],
)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_texts_are_the_targets(
    verifier: Any,
    monkeypatch: pytest.MonkeyPatch,
    temperature: float,
    right: float,
    covered: float,
    delays: Sequence[int],
) -> None:
    samplings = [Sampling(max_tokens=40, seed=n, temperature=temperature) for n in range(NUM)]
    mine = prompts()[:NUM]
    pairs = list(zip(mine, samplings, strict=True))
    learn(pairs)
    texts = [expected(*pair) for pair in pairs]
    seats: list[Seat] = []
    launch = verifier.launch

    def noted(batch: Batch) -> Any:
        seats.extend(batch.seats)
        return launch(batch)

    monkeypatch.setattr(verifier, "launch", noted)
    monkeypatch.setattr(verifier, "_overlap", True)  # what it was loaded without
    world = World(verifier)
    found = world.generate(mine, samplings, trees(texts, right, covered), delays)
    assert sum(map(list.__eq__, found, texts)) >= NUM - 1  # a tie of two scores at most
    num_with = sum(bool(seat.alternatives) for seat in seats)
    seamless = [v for v in world.verdicts if v.rejection is Rejection.SEAMLESS]
    accepted = sum(verdict.num_accepted for verdict in world.verdicts)
    print(
        f"{num_with} of {len(seats)} seats with alternatives, {len(seamless)} seamless rejections"
    )
    print(f"{accepted} accepted of {sum(verdict.num_drafted for verdict in world.verdicts)}")
    assert accepted or not right
    if covered == 0.9:
        assert num_with > 0 < len(seamless)
