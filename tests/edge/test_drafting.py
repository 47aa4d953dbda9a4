"""The drafting loop: one drafter for all generations of an edge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from wisp import wire
from wisp.core.drafts import Directive, DraftBlock, Verdict
from wisp.core.request import FinishReason, Request, Sampling
from wisp.core.slo import Slo
from wisp.edge.drafting import DraftLoop
from wisp.edge.generation import EdgeGeneration
from wisp.edge.predictor import ConfidencePredictor
from wisp.metrics import EdgeMetrics
from wisp.testing.drafter import ScriptedDrafter
from wisp.v1 import wisp_pb2 as pb

DIRECTIVE = Directive(window=4, threshold=0.0)


class PatientLink:
    """Its server ends a generation when no more drafts will come."""

    def __init__(self) -> None:
        self.num_drafts = 0

    async def generate(
        self, request: Request, hello: wire.Hello, outbox: asyncio.Queue[DraftBlock]
    ) -> AsyncGenerator[pb.ServerMessage, None]:
        yield wire.encode_opened(DIRECTIVE, 64, Slo(tokens_per_s=10, first_token_s=1))
        complete = False
        while not complete:
            block = await outbox.get()
            self.num_drafts += len(block.tokens)
            complete = block.complete
        yield wire.encode_verdict(
            Verdict(
                position=len(request.prompt),
                tokens=[7],
                directive=DIRECTIVE,
                finish_reason=FinishReason.STOP,
            )
        )


async def test_a_text_that_outgrows_the_drafter_costs_no_other_its_drafts() -> None:
    drafter = ScriptedDrafter(lambda key, position, previous: 5, max_model_len=4)
    metrics = EdgeMetrics()
    loop = DraftLoop(drafter, ConfidencePredictor(), 2, metrics)
    assert loop.has_room(4)
    assert not loop.has_room(5)

    def begin(key: int, link: Any, num_prompt: int) -> EdgeGeneration:
        generation = EdgeGeneration(
            link,
            Request(prompt=[1] * num_prompt, sampling=Sampling(max_tokens=50, seed=0)),
            wire.Hello(),
            predictor=loop.predictor,
            vocab_size=4096,
            block_tokens=2,
            reconnect_s=0.0,
            metrics=metrics,
            on_change=loop.wake,
            on_end=lambda: loop.remove(key),
        )
        loop.add(key, generation)
        return generation

    short, long = PatientLink(), PatientLink()
    for generation in (begin(0, short, 1), begin(1, long, 3)):
        assert [verdict.tokens async for verdict in generation] == [[7]]
        await generation.aclose()
    await loop.stop()
    assert (short.num_drafts, long.num_drafts) == (4, 2)
