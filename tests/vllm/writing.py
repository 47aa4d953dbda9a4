"""Texts that are written with own drafts, and what they must be."""

from __future__ import annotations

from typing import Any

from tests.own_drafts import Writer
from tests.vllm.driver import Driver, learn, prompts, same
from wisp.core.batch import Batch, Seat
from wisp.core.request import Sampling
from wisp.engine.step import InFlightStep

NUM, NUM_TOKENS = 24, 40
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "nucleus": {"temperature": 0.8, "top_p": 0.95},
    "hot": {"temperature": 1.2},
}


def pairs_of(name: str, num: int = NUM) -> list[tuple[list[int], Sampling]]:
    pairs = [
        (prompt, Sampling(max_tokens=NUM_TOKENS, seed=n * 7919, **SAMPLINGS[name]))
        for n, prompt in enumerate(prompts()[:num])
    ]
    learn(pairs)
    return pairs


def num_other(writers: list[Writer]) -> int:
    """Texts that differ from the torch engine's by a tie; any other difference fails."""
    drivers = []
    for writer in writers:
        session = writer.session
        driver = Driver(session.id, session.tokens[: writer.num_prompt], session.sampling)
        driver.session.tokens[:] = session.tokens
        drivers.append(driver)
    return sum(not same(driver) for driver in drivers)


Seated = list[tuple[Writer, Seat]]


def write_overlapped(drafting: Any, writers: list[Writer]) -> None:
    """All of them to their ends, each step launched behind another one that still runs."""
    for writer in writers:
        drafting.open(writer.session)
    while live := [writer for writer in writers if not writer.done]:
        steps = [launched(drafting, [(w, w.seat(100, 0)) for w in live[:6]])]
        free = [writer for writer in live[:6] if writer.session.free]
        behind = [(w, Seat(w.session, 1, num_own=w.session.max_drafts - 1)) for w in free]
        for _, seat in behind:
            seat.num_own = max(0, min(3, seat.num_own))
        if behind:
            steps.append(launched(drafting, behind))
        for number, (step, seated) in enumerate(steps):
            assert step.collect
            outcomes = step.collect()
            step.landed()
            for (writer, seat), outcome in zip(seated, outcomes, strict=True):
                if not writer.done:
                    writer.take(seat, outcome)
            if number == 0 and behind:
                steps[1][0].put_right()
        for writer in live:
            if writer.done:
                drafting.close(writer.session)


def launched(verifier: Any, seated: Seated) -> tuple[InFlightStep, Seated]:
    step = InFlightStep(Batch([seat for _, seat in seated]), None, 0.0, 0.0)
    step.launch(verifier)
    return step, seated
