"""The simulated target: a verifier whose step takes virtual time, and whose KV memory is finite."""

from __future__ import annotations

from random import Random

from wisp.core import Batch, Seat, Session
from wisp.errors import Overloaded
from wisp.estimator.shape import shape_of
from wisp.sim.law import Law
from wisp.verifier.base import Facts, Outcome, Verifier


class Clock:
    """The server's own: within a step it is ahead of the events."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SimulatedTarget(Verifier):
    """Implements `wisp.verifier.base.Verifier`. Its choice at a position is the position.

    The KV of a session's prompt and of its whole output is reserved when it is opened, so that no
    session that runs ever loses any.
    """

    def __init__(
        self, law: Law, clock: Clock, *, kv_tokens: int, max_sessions: int, seed: int
    ) -> None:
        self.facts = Facts(
            model="simulated",
            vocab_size=1 << 20,
            max_model_len=1 << 20,
            max_sessions=max_sessions,
            eos_token_ids=(),
            device="simulated",
            on_gpu=True,
            engine="simulated",
        )
        self._law = law
        self._clock = clock
        self._free_tokens = kv_tokens
        self._chance = Random(f"target {seed}")
        self._open: set[int] = set()
        self.num_steps = self.num_tokens = self.num_seats = 0
        self.busy_s = 0.0

    def open(self, session: Session) -> None:
        if session.end > self._free_tokens:
            raise Overloaded("the KV memory is taken", retry_after_s=0.5)
        self._free_tokens -= session.end
        self._open.add(session.id)

    def close(self, session: Session) -> None:
        if session.id in self._open:
            self._open.remove(session.id)
            self._free_tokens += session.end

    def shutdown(self) -> None:
        self._open.clear()

    def step(self, batch: Batch) -> list[Outcome]:
        time_s = self._law.time_s(shape_of(batch))
        time_s *= self._chance.lognormvariate(0.0, self._law.noise)
        self._clock.now += time_s
        self.busy_s += time_s
        self.num_steps += 1
        self.num_tokens += batch.num_tokens
        self.num_seats += len(batch)
        return [_verify(seat) for seat in batch.seats]


def _verify(seat: Seat) -> Outcome:
    if not seat.chooses:
        return Outcome([])
    start = position = len(seat.session.tokens)
    for token in seat.draft:
        if token != position:
            break
        position += 1
    return Outcome(list(range(start, position + 1)))
