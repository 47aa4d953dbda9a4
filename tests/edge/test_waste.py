"""Wasted drafting time and its two kinds, in virtual time."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from wisp import wire
from wisp.core.drafts import Directive, Verdict
from wisp.core.request import FinishReason, Request, Sampling
from wisp.core.slo import Slo
from wisp.edge.drafter.base import DraftJob
from wisp.edge.drafting import DraftLoop
from wisp.edge.generation import EdgeGeneration
from wisp.edge.link import Outbox
from wisp.edge.predictor import ConfidencePredictor
from wisp.edge.stream import Stream
from wisp.edge.waste import Cost, Waste
from wisp.metrics import EdgeMetrics
from wisp.testing.clock import VirtualClock
from wisp.testing.drafter import ScriptedDrafter
from wisp.v1 import wisp_pb2 as pb

WINDOW, BLOCK = 4, 2
DIRECTIVE = Directive(WINDOW, threshold=0.0)


def make_stream() -> Stream:
    stream = Stream([1, 2, 3], 100)
    stream.directive = DIRECTIVE
    return stream


def draft(stream: Stream, *tokens: int, time_s: float = 1.0) -> None:
    for token in tokens:
        begun = stream.begin(stream.wanted()[0])
        assert stream.can_take(begun)
        stream.append(token, 1.0, Cost(time_s, begun.overlapped))
        stream.take_block(BLOCK)


def verdict(position: int, *tokens: int, finish: FinishReason | None = None) -> Verdict:
    return Verdict(
        position=position, tokens=list(tokens), directive=DIRECTIVE, finish_reason=finish
    )


def test_drafting_during_the_prompts_prefill_overlaps() -> None:
    stream = make_stream()
    draft(stream, 10)
    stream.take_verdict(verdict(3, 99))
    assert stream.waste == Waste(1, blocking_s=0.0, overlapped_s=1.0)


def test_drafts_before_the_block_is_sent_block_and_later_ones_overlap() -> None:
    stream = make_stream()
    stream.take_verdict(verdict(3, 9))
    draft(stream, 10, 11, 12, time_s=0.5)  # a block of two leaves, then 12 is begun
    stream.take_verdict(verdict(4, 98))
    assert stream.waste == Waste(3, blocking_s=1.0, overlapped_s=0.5)
    draft(stream, 20, time_s=0.5)
    assert not stream.owed_a_verdict
    stream.take_verdict(verdict(5, 97))
    assert stream.waste == Waste(4, blocking_s=1.5, overlapped_s=0.5)


def test_what_is_committed_is_not_wasted() -> None:
    stream = make_stream()
    stream.take_verdict(verdict(3, 9))
    draft(stream, 10, 11)
    stream.take_verdict(verdict(4, 10, 11, 12))
    assert stream.waste == Waste()
    assert not stream.owed_a_verdict


def test_agreement_with_part_of_what_was_sent_leaves_the_rest_outstanding() -> None:
    stream = make_stream()
    stream.take_verdict(verdict(3, 9))
    draft(stream, 10, 11, 12, 13)
    stream.take_verdict(verdict(4, 10, 11))
    assert stream.owed_a_verdict
    draft(stream, 14)
    stream.finish()
    # 12 was begun when 10 and 11 were out, 13 too; 14 when 12 and 13 were.
    assert stream.waste == Waste(3, overlapped_s=3.0)


def test_an_overtaken_token_is_wasted_as_it_was_begun() -> None:
    stream = make_stream()
    stream.take_verdict(verdict(3, 9))
    begun = stream.begin(stream.wanted()[0])
    stream.take_verdict(verdict(4, 10))
    assert not stream.can_take(begun)
    stream.discard(Cost(1.0, begun.overlapped))
    assert stream.waste == Waste(1, blocking_s=1.0)


def test_after_a_reconnect_a_verdict_is_owed_and_old_blocks_are_not_out() -> None:
    stream = make_stream()
    stream.take_verdict(verdict(3, 9))
    draft(stream, 10, 11)
    stream.reopen()
    assert stream.owed_a_verdict
    stream.take_verdict(verdict(4, 10))
    assert not stream.owed_a_verdict  # 11 is at hand, and not sent again yet


def test_drafts_at_the_end_count_before_it_and_once() -> None:
    stream = make_stream()
    draft(stream, 10, 11)
    assert (stream.waste, stream.waste_at_end) == (Waste(), Waste(2, overlapped_s=2.0))
    stream.finish()
    assert stream.waste == stream.waste_at_end == Waste(2, overlapped_s=2.0)


class ScriptedLink:
    """A server that lets the window fill before it contradicts the first draft."""

    def __init__(self, num_rounds: int) -> None:
        self._num_rounds = num_rounds

    async def generate(
        self, request: Request, hello: wire.Hello, outbox: Outbox
    ) -> AsyncGenerator[pb.ServerMessage, None]:
        yield wire.encode_opened(DIRECTIVE, WINDOW, Slo(tokens_per_s=10, first_token_s=1))
        position = len(request.prompt)
        for number in range(self._num_rounds):
            for _ in range(WINDOW // BLOCK):
                await outbox.get()
            last = number == self._num_rounds - 1
            yield wire.encode_verdict(
                verdict(position, 99, finish=FinishReason.STOP if last else None)
            )
            position += 1


async def generate(link: Any, step_s: float) -> tuple[dict[str, float], EdgeMetrics]:
    """Every draft is wrong, and takes `step_s` of virtual time."""
    clock = VirtualClock()

    def truth(key: int, position: int, previous: int) -> int:
        return 5

    def step(jobs: Sequence[DraftJob]) -> None:
        clock.now += step_s

    drafter = ScriptedDrafter(truth, acceptance=0.0, on_step=step)
    metrics = EdgeMetrics()
    loop = DraftLoop(drafter, ConfidencePredictor(), 1, metrics, clock)
    generation = EdgeGeneration(
        link,
        Request(prompt=[1, 2, 3], sampling=Sampling(max_tokens=50, seed=0)),
        wire.Hello(),
        predictor=loop.predictor,
        vocab_size=4096,
        block_tokens=BLOCK,
        reconnect_s=0.0,
        metrics=metrics,
        on_change=loop.wake,
        on_end=lambda: loop.remove(0),
    )
    loop.add(0, generation)
    async for _ in generation:
        pass
    await generation.aclose()
    await loop.stop()
    return generation.stats(), metrics


async def test_an_edge_counts_both_kinds() -> None:
    stats, metrics = await generate(ScriptedLink(num_rounds=3), step_s=0.25)
    # The first window fills while the first verdict is due; of each later one, its first block
    # is drafted when nothing is.
    assert stats["edge_wasted_tokens"] == 3 * WINDOW
    assert stats["wasted_drafting_blocking_s"] == pytest.approx(2 * BLOCK * 0.25)
    assert stats["wasted_drafting_overlapped_s"] == pytest.approx((3 * WINDOW - 2 * BLOCK) * 0.25)
    assert stats["wasted_drafting_time_s"] == pytest.approx(3 * WINDOW * 0.25)
    for kind in ("blocking", "overlapped"):
        counted = metrics.registry.get_sample_value(
            "wisp_edge_wasted_drafting_seconds_total", {"kind": kind}
        )
        assert counted is not None
        assert math.isclose(counted, stats[f"wasted_drafting_{kind}_s"])
