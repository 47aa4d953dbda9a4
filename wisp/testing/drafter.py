"""A drafter without a model: drafts the scripted verifier's text, right with a given probability.

It serves tests and load tests. `wisp.testing.verifier` belongs to the server's half, so the truth
comes in as a function.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

from wisp.edge.drafter.base import DraftJob, Proposal
from wisp.errors import Overloaded, Unavailable

# Shares of the rejections in which the first, second, third alternative is the truth: measured on
# the bundled pair at temperature 0 (docs/measurements/noise.md).
COVERAGE = (0.37, 0.15, 0.08)

Truth = Callable[[int, int, int], int]  # (key, position, previous token) -> the target's choice


class ScriptedDrafter:
    """Implements `wisp.edge.drafter.base.Drafter`.

    A draft token is the truth with probability `acceptance`; if it is not, its n-th alternative is
    with probability `coverage[n]`. Whether it is depends on the seed and
    the whole position only, so drafting a position again after the same text gives the same token;
    the confidence is noisy around the probability, as a predictor would see it.
    """

    def __init__(
        self,
        truth: Truth,
        *,
        vocab_size: int = 4096,
        acceptance: float = 0.8,
        coverage: Sequence[float] = COVERAGE,
        max_branches: int = 4,
        seed: int = 0,
        max_sessions: int = 64,
        max_model_len: int = sys.maxsize,
        on_step: Callable[[Sequence[DraftJob]], None] | None = None,
    ) -> None:
        self._truth = truth
        self.vocab_size = vocab_size
        self._acceptance = acceptance
        self._coverage = coverage
        self.max_branches = max_branches
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
        num_branches = len(keys) - len(set(keys)) + 1
        assert num_branches <= self.max_branches, f"a step has too many branches: {keys}"
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
        truth = self._truth(job.key, position, previous)
        right = chance.random() < self._acceptance
        confidence = min(0.99, max(0.01, chance.gauss(0.85 if right else 0.45, 0.15)))
        drawn, rank = chance.random(), 0  # which candidate is the truth, if any is
        while not right and rank < len(self._coverage) and drawn >= self._coverage[rank]:
            drawn -= self._coverage[rank]
            rank += 1
        num_others = 1 + len(self._coverage)
        others = [(truth + index + 1) % self.vocab_size for index in range(num_others)]
        if right:
            tokens = [truth, *others]
        else:
            tokens = [others[0], *others[1:]]
            tokens.insert(rank + 1, truth)
        return Proposal(
            tokens[0],
            confidence,
            entropy=3.0 * (1.0 - confidence),
            margin=max(0.0, 2.0 * confidence - 1.0),
            spread=2.0,
            alternatives=tuple(
                Proposal(token, 0.5, 1.0, 0.3, 2.0) for token in tokens[1 : 1 + len(self._coverage)]
            ),
        )


class MortalScriptedDrafter(ScriptedDrafter):
    """Implements `wisp.edge.drafter.base.MortalDrafter`: it ends when somebody says so."""

    def __init__(self, truth: Truth, *, num_vain: int = 0, **more: Any) -> None:
        """`num_vain`: starts that are in vain, of those to come."""
        super().__init__(truth, **more)
        self.on_end: Callable[[], None] = lambda: None
        self.ended: str | None = None
        self.num_vain = num_vain

    def die(self, why: str = "the drafter's process has ended with code -9") -> None:
        self.ended = why
        self.on_end()

    def restart(self) -> None:
        if self.num_vain:
            self.num_vain -= 1
            self.ended = "the card has no memory left"
            raise Unavailable(self.ended)
        self.ended = None

    def shutdown(self) -> None:
        self.die("it was told to")

    def step(self, jobs: Sequence[DraftJob]) -> list[Proposal]:
        if self.ended is None:
            proposals = super().step(jobs)
        if self.ended is not None:
            raise Unavailable(self.ended)
        return proposals
