"""The simulated target: a verifier whose step takes virtual time, and whose KV memory is finite."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from benchmarks.sim.step_times import HOST, Host, StepTimes
from wisp.core.batch import Batch, Seat
from wisp.core.kv_memory import KvMemory
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.errors import Overloaded
from wisp.estimator.shape import shape_of
from wisp.testing.clock import VirtualClock
from wisp.verifier.base import Collect, Facts, Outcome, Verifier

# For the KV of a token of the 32B shape between GPU and host. Measured: 45 GB/s of an H100
# (`benchmarks.kv_copies`, 21 blocks).
KV_BYTES = 262_144
COPY_S = KV_BYTES / 45e9


class Slowing(NamedTuple):
    """The share of its speed that a step loses while KV is copied beside it."""

    out: float
    back: float


# Measured on an H200 (`benchmarks.kv_copies`): with the programs that copy now, and with the 32
# that did before (docs/measurements/parking.md).
SLOWING, SLOWING_BEFORE = Slowing(0.10, 0.17), Slowing(0.85, 0.27)

_BLOCK = 16  # tokens: KV memory is given out in blocks, vLLM's default


class SimulatedTarget(Verifier):
    """Implements `wisp.verifier.base.Verifier`. Its choice at a position is the position. A first
    token below 0 names the conversation that a prompt goes on with.

    KV is paged, as in vLLM: a session holds what it has computed. Who does not fit in beside the
    others waits; when the memory is full all the same, the one opened last loses its KV, and after
    a seat in vain computes it again. What a conversation has said stays in host memory until its
    room is needed; of the memory of the GPU nothing is left for its next turn. Steps overlap,
    unless told otherwise: what the host does for one is hidden while another runs.
    """

    def __init__(
        self,
        step_times: StepTimes,
        clock: VirtualClock,
        *,
        kv_tokens: int,
        host_kv_tokens: int = 0,
        max_sessions: int,
        seed: int,
        host: Host = HOST,
        overlap: bool = True,
        slowing: Slowing = SLOWING,
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
        self._step_times = step_times
        self._clock = clock
        self._host = host
        self._overlap = overlap
        self._slowing = slowing
        self._free_s = 0.0  # when the last step launched is over
        self._kv_tokens = kv_tokens
        self._chance = Random(f"target {seed}")
        self._held: dict[int, int] = {}  # tokens with KV, by session, in the order of opening
        self._open: dict[int, Session] = {}  # by id
        self._evicted: list[Session] = []
        self._parked: dict[int, int] = {}  # the same in host memory
        self._kept: dict[int, int] = {}  # of those, and of those that were loaded since
        self._ended: dict[int, int] = {}  # of texts that have ended, by conversation
        self._host_kv_tokens = host_kv_tokens
        self._copied_s = 0.0  # when the last copy between the two is over
        self._slowed_s = 0.0  # by which copies since the last launch slow the step beside them
        self.num_copied = self.num_recomputed = 0  # tokens
        self.num_asked = self.num_found = 0  # of prompts; of these, those in host memory
        self.num_steps = self.num_tokens = self.num_seats = 0
        self.busy_s = 0.0

    def open(self, session: Session) -> int:
        if _in_blocks(len(session.tokens)) > self._kv_tokens:
            raise Overloaded("the KV memory is smaller than the prompt")
        self._held[session.id] = 0
        self._open[session.id] = session
        self.num_asked += len(session.tokens)
        found = min(self._ended.pop(session.tokens[0], 0), len(session.tokens) - 1)
        found = found // _BLOCK * _BLOCK
        if found:
            self.num_found += found
            self._parked[session.id] = self._kept[session.id] = found
        return found

    def close(self, session: Session) -> None:
        held = self._held.pop(session.id, 0)
        parked = self._parked.pop(session.id, 0)
        kept = self._kept.pop(session.id, 0)
        self._open.pop(session.id, None)
        name = session.tokens[0]
        if name < 0 and self._host_kv_tokens:
            self._copy(max(0, held - kept), self._slowing.out)
            self._ended[name] = max(held, parked)
            self._forget()

    def _forget(self) -> None:
        """Texts that have ended give way, that of longest ago first."""
        while self._ended and self._num_parkable < 0:
            del self._ended[next(iter(self._ended))]

    @property
    def _num_parkable(self) -> int:
        """Tokens of host memory that nobody has; below 0: so many too many are there."""
        num_ended = sum(self._ended.values())
        return self._host_kv_tokens - sum(self._parked.values()) - num_ended

    def shutdown(self) -> None:
        self._held.clear()

    @property
    def _num_held(self) -> int:
        return sum(self._held.values())

    def _evict(self) -> None:
        excess = self._num_held - self._kv_tokens
        for session_id in reversed(self._held):
            if excess <= 0:
                return
            excess -= self._held[session_id]
            self.num_recomputed += self._held[session_id]
            self._held[session_id] = 0
            self._evicted.append(self._open[session_id])

    def memory(self) -> KvMemory:
        num_free = (self._kv_tokens - self._num_held) // _BLOCK
        num_parkable = self._host_kv_tokens - sum(self._parked.values())
        return KvMemory(_BLOCK, num_free, num_parkable)

    def park(self, sessions: Sequence[Session]) -> list[int]:
        kept = [session.num_computed for session in sessions]
        for session in sessions:
            held = self._parked[session.id] = self._held[session.id]
            self._copy(held - self._kept.get(session.id, 0), self._slowing.out)
            self._kept[session.id] = held // _BLOCK * _BLOCK  # full blocks are copied out once
            self._held[session.id] = 0
        self._forget()
        return kept

    def load(self, sessions: Sequence[Session]) -> list[int]:
        found = []
        for session in sessions:
            fits = self._num_held + self._parked[session.id] <= self._kv_tokens
            if fits:
                self._held[session.id] = self._parked.pop(session.id)
            found.append(session.num_computed if fits else 0)
        self._copy(sum(found), self._slowing.back)
        return found

    def evicted(self) -> list[Session]:
        evicted, self._evicted = self._evicted, []
        return [session for session in evicted if session.id in self._open]

    def _copy(self, num_tokens: int, slowing: float) -> None:
        """Beside the step that runs; what is launched next begins when it is over."""
        if num_tokens:
            time_s = num_tokens * COPY_S
            self._copied_s = max(self._copied_s, self._clock.now) + time_s
            self._slowed_s += slowing * time_s
            self.num_copied += num_tokens

    def overlaps(self, sampling: Sampling) -> bool:
        return self._overlap

    def launch(self, batch: Batch) -> Collect:
        host = self._host
        self._clock.now += host.launch_s + host.launch_seat_s * len(batch)
        begun_s = max(self._free_s + self._slowed_s, self._clock.now, self._copied_s)
        self._slowed_s = 0.0
        end_s = begun_s + self._time_s(batch)
        self.had_s = self._launch_passes_s(batch)
        self._clock.now += self.had_s
        end_s = self._free_s = max(end_s, self._clock.now)
        choosing = [seat.chooses for seat in batch.seats]
        lengths = [len(seat.session.tokens) for seat in batch.seats]

        def collect() -> list[Outcome]:
            self.arrived_s = end_s if end_s > self._clock.now else None
            self._clock.now = max(self._clock.now, end_s)
            parts = zip(batch.seats, choosing, lengths, strict=True)
            outcomes = [self._verify(*part) for part in parts]
            self._evict()
            return outcomes

        return collect

    def step(self, batch: Batch) -> list[Outcome]:
        return self.launch(batch)()

    def _time_s(self, batch: Batch) -> float:
        shape = shape_of(batch).with_drafts(self._num_own_drafts(batch))
        time_s = self._step_times.time_s(shape)
        time_s *= self._chance.lognormvariate(0.0, self._step_times.noise)
        time_s += self._drafting_s(batch)
        self.busy_s += time_s
        self.num_steps += 1
        self.num_tokens += shape.num_tokens
        self.num_seats += len(batch)
        return time_s

    def _num_own_drafts(self, batch: Batch) -> int:
        """Drafts of its own that it verifies beside those of the batch."""
        return 0

    def _drafting_s(self, batch: Batch) -> float:
        """What making them takes."""
        return 0.0

    def _launch_passes_s(self, batch: Batch) -> float:
        """What the host takes to launch the passes that make own drafts, behind the target's."""
        return 0.0

    def _verify(self, seat: Seat, chooses: bool, length: int) -> Outcome:
        """`length`: of the text when the step was launched."""
        session = seat.session
        num_computed = session.num_computed - session.num_computing  # this is the first in flight
        if self._held.get(session.id, -1) < num_computed:  # evicted since its last step, or closed
            return Outcome([], num_computed=0)
        outcome = self._choices(seat, length) if chooses else Outcome([])
        num_held = num_computed + seat.num_context + outcome.num_accepted
        self._held[session.id] = _in_blocks(num_held)
        return outcome

    def _choices(self, seat: Seat, length: int) -> Outcome:
        start = position = len(seat.session.tokens)
        for token in seat.drafts_behind(seat.session.tokens[length:]):
            if token != position:
                break
            position += 1
        return Outcome(list(range(start, position + 1)))


def _in_blocks(num_tokens: int) -> int:
    """Tokens whose room that many take."""
    return -(-num_tokens // _BLOCK) * _BLOCK
