"""The drafting loop: one drafter for all generations of an edge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from tests.edge.drafted import DIRECTIVE, PatientLink, begin
from tests.waiting import wait_on_the_loop
from wisp import wire
from wisp.config import PowerSettings
from wisp.core.drafts import DraftBlock, Verdict
from wisp.core.request import FinishReason, Request
from wisp.core.slo import Slo
from wisp.edge.drafter.base import DraftJob, Proposal
from wisp.edge.drafting import DraftLoop
from wisp.edge.link import Outbox
from wisp.edge.power import LOOK_S, Power
from wisp.edge.predictor import ConfidencePredictor
from wisp.metrics import EdgeMetrics
from wisp.testing.clock import VirtualClock
from wisp.testing.drafter import ScriptedDrafter
from wisp.v1 import wisp_pb2 as pb


class Verdicts:
    """A server whose verdicts are given, one of each stream at a time."""

    def __init__(self, *steps: list[int]) -> None:
        self.steps = steps
        self.blocks: list[DraftBlock] = []

    async def generate(
        self, request: Request, hello: wire.Hello, outbox: Outbox
    ) -> AsyncGenerator[pb.ServerMessage, None]:
        yield wire.encode_opened(DIRECTIVE, 64, Slo(tokens_per_s=10, first_token_s=1))
        position = len(request.prompt)
        for index, tokens in enumerate(self.steps):
            if index == 0:
                block = await outbox.get()
                assert block
                self.blocks.append(block)
            last = FinishReason.STOP if tokens is self.steps[-1] else None
            verdict = Verdict(
                position=position, tokens=tokens, directive=DIRECTIVE, finish_reason=last
            )
            yield wire.encode_verdict(verdict)
            position += len(tokens)


async def test_an_id_that_the_drafter_does_not_know_costs_no_other_its_drafts() -> None:
    """Padding of the target's vocabulary: in a prompt, or the target's own choice."""
    drafter = ScriptedDrafter(lambda key, position, previous: 5, vocab_size=4096)
    loop = DraftLoop(drafter, ConfidencePredictor(), 3, EdgeMetrics())
    padded = begin(loop, 0, PatientLink(), [1, 4100])
    assert not padded.stream.wants_token
    chosen, other = Verdicts([4100], [7]), PatientLink()
    begun = begin(loop, 1, chosen, [1])
    assert [v.tokens async for v in begun] == [[4100], [7]]
    assert len(chosen.blocks) == 1
    drafted = begin(loop, 2, other, [1])
    assert [v.tokens async for v in drafted] == [[7]]
    assert other.num_drafts == 4
    for generation in (padded, begun, drafted):
        await generation.aclose()
    await loop.stop()


async def test_a_step_that_fails_costs_no_other_its_drafts() -> None:
    def refuse(jobs: Sequence[DraftJob]) -> None:
        if any(job.tokens[0] == 9 for job in jobs):
            raise RuntimeError("this one breaks it")

    drafter = ScriptedDrafter(lambda key, position, previous: 5, on_step=refuse)
    loop = DraftLoop(drafter, ConfidencePredictor(), 2, EdgeMetrics())
    link = PatientLink()
    broken, sound = begin(loop, 0, PatientLink(), [9]), begin(loop, 1, link, [1])
    assert [verdict.tokens async for verdict in sound] == [[7]]
    assert link.num_drafts == 4
    for generation in (broken, sound):
        await generation.aclose()
    await loop.stop()


@pytest.mark.parametrize("step", ["wanted", "finish_token", "take_block", "take_labels"])
async def test_drafts_that_fail_cost_neither_their_text_nor_others_drafts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    """Whatever is wrong with them: the text goes on as the server writes it."""
    loop = DraftLoop(ScriptedDrafter(lambda *_: 5), ConfidencePredictor(), 2, EdgeMetrics())
    failed = asyncio.Event()

    def fail(*_: object, **__: object) -> None:
        failed.set()
        raise RuntimeError("nobody thought of this")

    class Server(PatientLink):
        async def generate(
            self, request: Request, hello: wire.Hello, outbox: Outbox
        ) -> AsyncGenerator[pb.ServerMessage, None]:
            yield wire.encode_opened(DIRECTIVE, 64, Slo(tokens_per_s=10, first_token_s=1))
            yield wire.encode_verdict(Verdict(position=1, tokens=[6], directive=DIRECTIVE))
            await failed.wait()
            end = Verdict(
                position=2, tokens=[7], directive=DIRECTIVE, finish_reason=FinishReason.STOP
            )
            yield wire.encode_verdict(end)

    broken = begin(loop, 0, Server(), [1])

    monkeypatch.setattr(broken.stream, step, fail)
    link = PatientLink()
    sound = begin(loop, 1, link, [1])
    async with asyncio.timeout(10):
        assert [verdict.tokens async for verdict in broken] == [[6], [7]]
        assert [verdict.tokens async for verdict in sound] == [[7]]
    assert link.num_drafts == 4
    assert not broken.stream.wants_token
    assert "the drafts of a generation failed: it goes on without" in caplog.text
    assert loop.has_room(1)
    for generation in (broken, sound):
        await generation.aclose()
    await loop.stop()


async def test_a_text_without_drafts_has_none_whatever_directives_come(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(jobs: Sequence[DraftJob]) -> None:
        raise RuntimeError("this one breaks it")

    drafter = ScriptedDrafter(lambda *_: 5, on_step=refuse)
    loop = DraftLoop(drafter, ConfidencePredictor(), 2, EdgeMetrics())
    heard = asyncio.Event()

    class Waiting(PatientLink):
        async def generate(
            self, request: Request, hello: wire.Hello, outbox: Outbox
        ) -> AsyncGenerator[pb.ServerMessage, None]:
            yield wire.encode_opened(DIRECTIVE, 64, Slo(tokens_per_s=10, first_token_s=1))
            await heard.wait()
            yield wire.encode_verdict(Verdict(position=1, tokens=[6], directive=DIRECTIVE))
            await asyncio.Event().wait()

    generation = begin(loop, 0, Waiting(), [1])
    await wait_on_the_loop(lambda: "goes on without drafts" in caplog.text, "it does")
    heard.set()
    verdict = await anext(aiter(generation))
    assert verdict.tokens == [6]
    assert not generation.stream.wants_token
    await generation.aclose()
    await loop.stop()


async def test_a_drafter_that_answers_with_too_little_has_failed() -> None:
    class Short(ScriptedDrafter):
        def step(self, jobs: Sequence[DraftJob]) -> list[Proposal]:
            return [each for each in super().step(jobs) if jobs[0].tokens[0] != 9]

    loop = DraftLoop(Short(lambda *_: 5), ConfidencePredictor(), 2, EdgeMetrics())
    link = PatientLink()
    broken, sound = begin(loop, 0, PatientLink(), [9]), begin(loop, 1, link, [1])
    async with asyncio.timeout(10):
        assert [verdict.tokens async for verdict in sound] == [[7]]
    assert link.num_drafts == 4
    for generation in (broken, sound):
        await generation.aclose()
    await loop.stop()


async def test_an_edge_whose_drafting_ends_goes_on_without_drafts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    looks: list[float] = []

    def battery() -> float | None:
        looks.append(clock.now)
        if len(looks) > 1:
            raise RuntimeError("nobody thought of this")
        return None

    clock, metrics = VirtualClock(), EdgeMetrics()
    power = Power(PowerSettings(min_battery=0.3), battery)
    drafter = ScriptedDrafter(lambda *_: 5)
    loop = DraftLoop(drafter, ConfidencePredictor(), 2, metrics, clock, power)
    assert loop.has_room(1)
    generation = begin(loop, 0, Verdicts([7]), [1])
    clock.now += LOOK_S
    loop.wake()
    value = metrics.registry.get_sample_value
    await wait_on_the_loop(lambda: value("wisp_edge_drafter_up") == 0.0, "its end is known")
    assert not loop.has_room(1)
    assert not generation.stream.wants_token
    assert "there are no drafts any more until wisp-edge is started again" in caplog.text
    assert "nobody thought of this" in caplog.text
    await generation.aclose()
    await loop.stop()


async def test_what_fails_on_the_drafters_own_thread_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    drafter = ScriptedDrafter(lambda *_: 5, max_sessions=1)
    loop = DraftLoop(drafter, ConfidencePredictor(), 2, EdgeMetrics())
    generations = [begin(loop, key, PatientLink(), [1]) for key in range(2)]
    await wait_on_the_loop(lambda: "sequences of the drafter are taken" in caplog.text, "it is")
    for generation in generations:
        await generation.aclose()
    await loop.stop()


async def test_a_text_that_outgrows_the_drafter_costs_no_other_its_drafts() -> None:
    drafter = ScriptedDrafter(lambda key, position, previous: 5, max_model_len=4)
    loop = DraftLoop(drafter, ConfidencePredictor(), 2, EdgeMetrics())
    assert loop.has_room(4)
    assert not loop.has_room(5)
    short, long = PatientLink(), PatientLink()
    for generation in (begin(loop, 0, short, [1]), begin(loop, 1, long, [1] * 3)):
        assert [verdict.tokens async for verdict in generation] == [[7]]
        await generation.aclose()
    await loop.stop()
    assert (short.num_drafts, long.num_drafts) == (4, 2)


async def test_on_a_low_battery_it_drafts_nothing_until_that_has_passed() -> None:
    steps: list[int] = []
    charge: list[float | None] = [0.2]
    looked = asyncio.Event()

    def battery() -> float | None:
        looked.set()
        return charge[0]

    clock, metrics = VirtualClock(), EdgeMetrics()
    drafter = ScriptedDrafter(lambda *_: 5, on_step=lambda jobs: steps.append(len(jobs)))
    power = Power(PowerSettings(min_battery=0.3), battery)
    loop = DraftLoop(drafter, ConfidencePredictor(), 2, metrics, clock, power)
    assert not loop.has_room(1)
    link = PatientLink()
    running = begin(loop, 0, link, [1])  # it began before the battery was low
    await looked.wait()
    for _ in range(10):  # turns of the event loop: enough for a step to begin
        loop.wake()
        await asyncio.sleep(0)
    assert steps == []
    charge[0] = None
    clock.now += LOOK_S
    loop.wake()
    assert [verdict.tokens async for verdict in running] == [[7]]
    assert link.num_drafts == 4
    assert loop.has_room(1)
    await running.aclose()
    await loop.stop()


async def test_an_edge_that_may_compute_half_of_the_time_reports_twice_the_time() -> None:
    clock = VirtualClock()
    slept: list[float] = []

    def compute(jobs: Sequence[DraftJob]) -> None:
        clock.now += 0.25

    async def sleep(time_s: float) -> None:
        slept.append(time_s)
        clock.now += time_s

    drafter = ScriptedDrafter(lambda *_: 5, max_branches=1, on_step=compute)
    power = Power(PowerSettings(max_share=0.5))
    metrics = EdgeMetrics()
    loop = DraftLoop(drafter, ConfidencePredictor(), 1, metrics, clock, power, sleep)
    link = PatientLink()
    generation = begin(loop, 0, link, [1], block_tokens=1)
    assert [verdict.tokens async for verdict in generation] == [[7]]
    assert link.draft_times_s == pytest.approx([0.25, 0.5, 0.5, 0.5])
    assert slept[:3] == pytest.approx([0.25] * 3)
    await generation.aclose()
    await loop.stop()
