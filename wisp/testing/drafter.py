"""A drafter without a model: drafts the scripted verifier's text, right with a given probability.

It serves tests and load tests. `wisp.testing.verifier` belongs to the server's half, so the truth
comes in as a function.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence

from wisp.edge.drafter.base import DraftJob, Proposal
from wisp.errors import Overloaded

Truth = Callable[[int, int, int], int]  # (key, position, previous token) -> the target's choice


class ScriptedDrafter:
    """Implements `wisp.edge.drafter.base.Drafter`.

    A draft token is the truth with probability `acceptance`. Whether it is depends on the seed and
    the whole position only, so drafting a position again after the same text gives the same token;
    the confidence is noisy around the probability, as a predictor would see it.
    """

    def __init__(
        self,
        truth: Truth,
        *,
        vocab_size: int = 4096,
        acceptance: float = 0.8,
        seed: int = 0,
        max_sessions: int = 64,
        max_model_len: int = sys.maxsize,
        on_step: Callable[[Sequence[DraftJob]], None] | None = None,
    ) -> None:
        self._truth = truth
        self.vocab_size = vocab_size
        self._acceptance = acceptance
        self._seed = seed
        self._max_sessions = max_sessions
        self.max_model_len = max_model_len
        self._on_step = on_step
        self._open: set[int] = set()

    def open(self, key: int) -> None:
        if key in self._open:
            raise ValueError(f"sequence {key} is open already")
        if len(self._open) >= self._max_sessions:
            raise Overloaded(f"all {self._max_sessions} sequences of the drafter are taken")
        self._open.add(key)

    def close(self, key: int) -> None:
        self._open.discard(key)

    def step(self, jobs: Sequence[DraftJob]) -> list[Proposal]:
        keys = [job.key for job in jobs]
        assert len(set(keys)) == len(keys), f"a sequence has two jobs in one step: {keys}"
        assert self._open.issuperset(keys), f"a sequence of {keys} is not open"
        longest = max(len(job.tokens) for job in jobs)
        assert longest <= self.max_model_len, f"a sequence has {longest} tokens"
        assert all(max(job.tokens) < self.vocab_size for job in jobs), "an id is not the drafter's"
        if self._on_step is not None:
            self._on_step(jobs)
        return [self._propose(job) for job in jobs]

    def _propose(self, job: DraftJob) -> Proposal:
        position, previous = len(job.tokens), job.tokens[-1]
        chance = random.Random(f"{self._seed} {position} {previous}")
        token = self._truth(job.key, position, previous)
        right = chance.random() < self._acceptance
        if not right:
            token = (token + 1) % self.vocab_size
        confidence = min(0.99, max(0.01, chance.gauss(0.85 if right else 0.45, 0.15)))
        return Proposal(
            token,
            confidence,
            entropy=3.0 * (1.0 - confidence),
            margin=max(0.0, 2.0 * confidence - 1.0),
            spread=2.0,
        )
