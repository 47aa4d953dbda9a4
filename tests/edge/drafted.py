"""Generations under a drafting loop, and servers that end them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from wisp import wire
from wisp.core.drafts import Directive, Verdict
from wisp.core.request import FinishReason, Request, Sampling
from wisp.core.slo import Slo
from wisp.edge.drafting import DraftLoop
from wisp.edge.generation import EdgeGeneration
from wisp.edge.link import Outbox
from wisp.metrics import EdgeMetrics
from wisp.v1 import wisp_pb2 as pb

DIRECTIVE = Directive(window=4, threshold=0.0)


class PatientLink:
    """Its server ends a generation when no more drafts will come."""

    def __init__(self) -> None:
        self.num_drafts = 0
        self.draft_times_s: list[float] = []  # as the edge reports them, of each block

    async def generate(
        self, request: Request, hello: wire.Hello, outbox: Outbox
    ) -> AsyncGenerator[pb.ServerMessage, None]:
        yield wire.encode_opened(DIRECTIVE, 64, Slo(tokens_per_s=10, first_token_s=1))
        complete = False
        while not complete:
            block = await outbox.get()
            assert block
            self.num_drafts += len(block.tokens)
            self.draft_times_s.append(block.draft_time_s)
            complete = block.complete
        yield wire.encode_verdict(
            Verdict(
                position=len(request.prompt),
                tokens=[7],
                directive=DIRECTIVE,
                finish_reason=FinishReason.STOP,
            )
        )


def begin(
    loop: DraftLoop, key: int, link: Any, prompt: list[int], block_tokens: int = 2
) -> EdgeGeneration:
    generation = EdgeGeneration(
        link,
        Request(prompt=prompt, sampling=Sampling(max_tokens=50, seed=0)),
        wire.Hello(),
        predictor=loop.predictor,
        vocab_size=5000,
        block_tokens=block_tokens,
        reconnect_s=0.0,
        metrics=EdgeMetrics(),
        on_change=loop.wake,
        on_end=lambda: loop.remove(key),
    )
    loop.add(key, generation)
    return generation
