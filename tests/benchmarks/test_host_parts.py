"""The clocks around the parts of a turn; time is told, there is no GPU."""

from __future__ import annotations

from typing import Any

from benchmarks.host_parts import Gap, HostParts, by_seats, summary
from wisp.core.batch import Batch
from wisp.testing.clock import VirtualClock


class Work:
    """`outer` takes 1, `inner` inside it 2, and 3 more behind it."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    def outer(self) -> str:
        self._clock.now += 1.0
        self.inner()
        self._clock.now += 3.0
        return "done"

    def inner(self) -> None:
        self._clock.now += 2.0


def test_a_part_is_without_those_inside_it() -> None:
    clock = VirtualClock()
    parts, work = HostParts(clock), Work(clock)
    parts.clock_in(work, "outer", "outer")
    parts.clock_in(work, "inner", "inner")
    parts.waiting = True
    assert work.outer() == "done"
    clock.now += 5.0
    parts.enter("forward")
    parts.leave()
    parts.forward_submitted(None)
    (gap,) = parts.gaps
    assert gap.parts == {"other": 5.0, "outer": 4.0, "inner": 2.0, "forward": 0.0}
    assert gap.host_s == 11.0
    assert gap.idle_s is None


def test_a_forward_that_waited_for_nobody_is_no_gap() -> None:
    parts = HostParts(VirtualClock())
    parts.forward_submitted(None)
    assert parts.gaps == []


def test_batches_are_noted_as_they_are_launched() -> None:
    class Verifier:
        def launch(self, batch: Batch) -> str:
            return "launched"

    parts, verifier = HostParts(VirtualClock()), Verifier()
    parts.note_batches(verifier)
    batch: Any = Batch()
    assert verifier.launch(batch) == "launched"
    assert parts.batch is batch


def gap(seats: int, time_s: float, prefill: int = 0) -> Gap:
    return Gap(seats, 5 * seats, seats, prefill, 0.03, {"decide": time_s, "send": 0.001})


def test_the_parts_add_up_to_the_gap() -> None:
    found = summary([gap(4, 0.001), gap(4, 0.003)])
    assert found["host_ms"] == 3.0
    assert found["parts_ms"] == {"decide": 2.0, "send": 1.0}
    assert (found["seats"], found["tokens"], found["step_ms"]) == (4.0, 20.0, 30.0)


def test_steps_with_prompts_are_left_out_and_few_tell_nothing() -> None:
    gaps = [gap(9, 0.001)] * 20 + [gap(10, 0.001, prefill=7)] * 20 + [gap(64, 0.001)] * 19
    (found,) = by_seats(gaps)
    assert (found["gaps"], found["seats"]) == (20, 9.0)
