"""A drafter whose process ends, under the drafting loop and on a virtual clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest

from tests.edge.drafted import PatientLink, begin
from tests.waiting import wait_on_the_loop
from wisp.edge.drafter.base import DraftJob
from wisp.edge.drafting import DraftLoop
from wisp.edge.predictor import ConfidencePredictor
from wisp.edge.revival import FIRST_S, MAX_DEATHS, SOUND_S
from wisp.metrics import EdgeMetrics
from wisp.testing.clock import VirtualClock
from wisp.testing.drafter import MortalScriptedDrafter

POISON = 9  # the token of a text that ends the drafter


class Edge:
    """A drafting loop whose time passes while it waits."""

    def __init__(self, num_vain: int = 0) -> None:
        self.clock, self.metrics = VirtualClock(), EdgeMetrics()
        self.slept: list[float] = []
        self.deadly: set[int] = set()  # first tokens of texts
        self.sizes: list[int] = []  # of the steps, in generations
        self.drafter = MortalScriptedDrafter(lambda *_: 5, num_vain=num_vain, on_step=self._on_step)
        self.loop = DraftLoop(
            self.drafter,
            ConfidencePredictor(),
            4,
            self.metrics,
            self.clock,
            sleep=self._sleep,
        )

    def _on_step(self, jobs: Sequence[DraftJob]) -> None:
        self.sizes.append(len({job.key for job in jobs}))
        if deadly := self.deadly.intersection(job.tokens[0] for job in jobs):
            self.deadly -= deadly - {POISON}
            self.drafter.die()

    async def _sleep(self, time_s: float) -> None:
        self.slept.append(time_s)
        self.clock.now += time_s
        await asyncio.sleep(0)

    def value(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"wisp_edge_drafter_{name}")


async def test_a_drafter_that_dies_in_a_step_drafts_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    edge, link = Edge(), PatientLink()
    edge.deadly = {1}
    generation = begin(edge.loop, 0, link, [1])
    assert [verdict.tokens async for verdict in generation] == [[7]]
    assert link.num_drafts == 4  # as if it had never died
    assert edge.slept == [FIRST_S]
    assert (edge.value("up"), edge.value("restarts_total")) == (1.0, 1.0)
    said = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert said == [
        "there are no drafts: the drafter's process has ended with code -9; "
        "it is started again in 1 s",
        "there are drafts again: the drafter has started",
    ]
    await generation.aclose()
    await edge.loop.stop()
    assert edge.drafter.ended == "it was told to"


async def test_one_that_dies_while_nobody_writes_is_back_before_anybody_does() -> None:
    edge = Edge(num_vain=1)
    await asyncio.sleep(0)
    edge.drafter.die()
    assert edge.value("up") == 0.0
    await wait_on_the_loop(lambda: edge.value("restarts_total") == 1.0, "it is back")
    assert edge.slept == [FIRST_S, 2 * FIRST_S]  # its first start was in vain
    assert edge.value("up") == 1.0
    await edge.loop.stop()


async def test_it_is_given_up_after_so_many_deaths_in_a_row(
    caplog: pytest.LogCaptureFixture,
) -> None:
    edge, link = Edge(num_vain=MAX_DEATHS), PatientLink()
    edge.deadly = {1}
    generation = begin(edge.loop, 0, link, [1])
    assert edge.loop.has_room(1)
    await wait_on_the_loop(lambda: not edge.loop.has_room(1), "it is given up")
    assert edge.slept == [FIRST_S * 2**number for number in range(MAX_DEATHS - 1)]
    [last] = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert last.message.endswith(
        "until wisp-edge is started again: the card has no memory left, "
        f"for the {MAX_DEATHS}th time in a row"
    )
    assert (edge.value("up"), edge.value("restarts_total")) == (0.0, 0.0)
    assert not generation.stream.wants_token  # it is the server's alone from here on
    await generation.aclose()
    await edge.loop.stop()


async def test_deaths_long_apart_are_not_in_a_row() -> None:
    edge = Edge()
    await asyncio.sleep(0)
    for number in range(1, MAX_DEATHS + 3):
        edge.clock.now += SOUND_S
        edge.drafter.die()
        await wait_on_the_loop(lambda: edge.value("restarts_total") == number, "it is back")  # noqa: B023
    assert set(edge.slept) == {FIRST_S}
    await edge.loop.stop()


async def test_a_text_that_ends_the_drafter_costs_no_other_its_drafts() -> None:
    """It goes on without drafts, once it has ended the drafter alone; the others have theirs."""
    edge = Edge()
    edge.deadly = {POISON}
    links = [PatientLink() for _ in range(3)]
    poisoned = begin(edge.loop, 0, PatientLink(), [POISON])
    sound = [begin(edge.loop, 1 + index, link, [1]) for index, link in enumerate(links)]
    for generation in sound:
        assert [verdict.tokens async for verdict in generation] == [[7]]
    assert [link.num_drafts for link in links] == [4, 4, 4]
    await wait_on_the_loop(lambda: edge.value("up") == 1.0, "it is back")
    assert edge.value("restarts_total") == 2.0
    for generation in (poisoned, *sound):
        await generation.aclose()
    await edge.loop.stop()
