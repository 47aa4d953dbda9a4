"""Sessions that decode on vLLM for ever, so that their steps can be timed."""

from __future__ import annotations

import random
from typing import Any

from wisp.core.batch import Batch, Seat
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.engine.step import InFlightStep

# Of everything drawn at random here; chosen: any number does, and one makes it repeatable.
SEED = 11
MAX_WINDOW = 7
MAX_STEP_TOKENS = 4096
SLO = Slo(tokens_per_s=10, first_token_s=10)  # of every session; chosen: nobody is judged by it


class Fleet:
    """Sessions that have read their prompts and decode for ever.

    `ahead`: as the engine does, a step is launched before the outcomes of the one before are taken
    in. Without drafts it is the same sessions' next step; with drafts two halves of the sessions
    take turns.
    """

    def __init__(
        self, verifier: Any, number: int, context: int, temperature: float, *, ahead: bool = False
    ) -> None:
        self._verifier = verifier
        self._ahead = ahead
        self._in_flight: InFlightStep | None = None
        self._chance = random.Random(SEED)
        self._vocab_size = verifier.facts.vocab_size
        self.sessions = [
            Session(
                index,
                [self._chance.randrange(self._vocab_size) for _ in range(context)],
                Sampling(max_tokens=250, seed=index, temperature=temperature),
                SLO,
                overlaps=True,
            )
            for index in range(number)
        ]
        for session in self.sessions:
            verifier.open(session)
        each = max(1, MAX_STEP_TOKENS // context)
        for first in range(0, number, each):
            self._launch([Seat(s, s.num_missing) for s in self.sessions[first : first + each]])
            self.wait()

    def step(self, drafts: str) -> int:
        """One round of all; the number of new tokens."""
        if not self._ahead or drafts == "0":
            return self._launch(self._seats(self.sessions, drafts))
        half = -(-len(self.sessions) // 2)
        parts = self.sessions[:half], self.sessions[half:]
        return sum(self._launch(self._seats(part, drafts)) for part in parts if part)

    def wait(self) -> None:
        """For the outcomes of the last step."""
        if self._in_flight:
            self._take_in(self._in_flight)
        self._in_flight = None

    def close(self) -> None:
        self.wait()
        for session in self.sessions:
            self._verifier.close(session)

    def _seats(self, sessions: list[Session], drafts: str) -> list[Seat]:
        if drafts != "0" and any(session.num_in_flight for session in sessions):
            self.wait()  # a draft needs the text before it
        return [Seat(session, 1, self._draft(drafts)) for session in sessions]

    def _draft(self, drafts: str) -> list[int]:
        count = self._chance.randint(0, MAX_WINDOW) if drafts == "mixed" else int(drafts)
        return [self._chance.randrange(self._vocab_size) for _ in range(count)]

    def _launch(self, seats: list[Seat]) -> int:
        step = InFlightStep(Batch(seats), None, 0.0, 0.0)
        step.launch(self._verifier)
        if self._in_flight:
            self._take_in(self._in_flight)
        self._in_flight = step
        if not self._ahead:
            self.wait()
        return step.shape.num_tokens

    def _take_in(self, step: InFlightStep) -> None:
        assert step.collect
        outcomes = step.collect()
        step.landed()
        for seat, outcome in zip(step.batch.seats, outcomes, strict=True):
            seat.session.computed(outcome.computed_after(seat))
            seat.session.commit(outcome.tokens, now=0.0)
