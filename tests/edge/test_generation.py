"""A generation whose streams break: what is tried again, and what is told at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Protocol

import pytest

from wisp import wire
from wisp.core.drafts import REST, Verdict
from wisp.core.request import FinishReason, Request, Sampling
from wisp.core.slo import Slo
from wisp.edge.generation import EdgeGeneration
from wisp.edge.link import Outbox
from wisp.edge.predictor import ConfidencePredictor
from wisp.errors import (
    BadRequest,
    HandshakeError,
    InternalError,
    Overloaded,
    Shed,
    Superseded,
    Unavailable,
    WispError,
)
from wisp.metrics import EdgeMetrics
from wisp.v1 import wisp_pb2 as pb

OPENED = wire.encode_opened(REST, 64, Slo(tokens_per_s=10, first_token_s=1))
NUM_TOKENS = 6
Attempt = Exception | int  # refused, or broken after so many tokens


class Begin(Protocol):
    def __call__(
        self, *attempts: Attempt, for_ever: bool = False, reconnect_s: float = 60.0
    ) -> tuple[EdgeGeneration, BreakingLink]: ...


class BreakingLink:
    """Every attempt is the next of its script: each is told the tokens that are committed."""

    def __init__(self, attempts: Iterator[Attempt]) -> None:
        self.hellos: list[wire.Hello] = []
        self.num_left = 0
        self._attempts = attempts

    def leave(self) -> None:
        self.num_left += 1

    async def generate(
        self, request: Request, hello: wire.Hello, outbox: Outbox
    ) -> AsyncGenerator[pb.ServerMessage, None]:
        self.hellos.append(hello)
        attempt = next(self._attempts)
        if isinstance(attempt, Exception):
            raise attempt
        yield OPENED
        start = len(request.committed)
        for number in range(start, min(start + attempt, NUM_TOKENS)):
            last = number == NUM_TOKENS - 1
            yield wire.encode_verdict(
                Verdict(
                    position=len(request.prompt) + number,
                    tokens=[number],
                    directive=REST,
                    finish_reason=FinishReason.LENGTH if last else None,
                )
            )
        raise Unavailable("lost")


@pytest.fixture
def begin() -> Begin:
    def begin(
        *attempts: Attempt, for_ever: bool = False, reconnect_s: float = 60.0
    ) -> tuple[EdgeGeneration, BreakingLink]:
        def script() -> Iterator[Attempt]:
            yield from attempts
            while for_ever:
                yield attempts[-1]

        link = BreakingLink(script())
        generation = EdgeGeneration(
            link,  # type: ignore[arg-type]
            Request(prompt=[1, 2], sampling=Sampling(max_tokens=NUM_TOKENS, seed=0)),
            wire.Hello(),
            predictor=ConfidencePredictor(),
            vocab_size=4096,
            block_tokens=2,
            reconnect_s=reconnect_s,
            metrics=EdgeMetrics(),
            on_change=lambda: None,
            on_end=lambda: None,
        )
        return generation, link

    return begin


async def text(generation: EdgeGeneration) -> list[int]:
    return [token async for verdict in aiter(generation) for token in verdict.tokens]


async def test_a_resume_carries_the_key_of_its_generation(begin: Begin) -> None:
    generation, link = begin(2, 2, 2)
    other, other_link = begin(NUM_TOKENS)
    assert await text(generation) == await text(other) == list(range(NUM_TOKENS))
    keys = {hello.resume_key for hello in link.hellos}
    assert len(link.hellos) == 3
    assert len(keys) == 1
    assert {len(key) for key in keys} == {16}
    assert other_link.hellos[0].resume_key not in keys


@pytest.mark.parametrize(
    "refusal",
    [Overloaded("full", 0.01), Unavailable("draining"), HandshakeError("another tokenizer")],
)
async def test_a_refused_resume_is_tried_again(begin: Begin, refusal: WispError) -> None:
    generation, link = begin(2, refusal, refusal, NUM_TOKENS)
    assert await text(generation) == list(range(NUM_TOKENS))
    assert link.num_left == (0 if isinstance(refusal, Unavailable) else 2)
    assert generation.stats()["reconnects"] == 1


@pytest.mark.parametrize("refusal", [Overloaded("full", 0.01), HandshakeError("other")])
async def test_a_refused_beginning_is_told_at_once(begin: Begin, refusal: WispError) -> None:
    generation, link = begin(refusal)
    with pytest.raises(type(refusal)):
        await text(generation)
    assert len(link.hellos) == 1


@pytest.mark.parametrize("end", [BadRequest("no"), Shed("priority"), Superseded("elsewhere")])
async def test_what_the_server_ends_is_not_tried_again(begin: Begin, end: WispError) -> None:
    generation, link = begin(2, end)
    with pytest.raises(type(end)):
        await text(generation)
    assert len(link.hellos) == 2


async def test_streams_that_open_and_break_are_not_tried_for_ever(
    begin: Begin,
) -> None:
    generation, link = begin(2, 0, for_ever=True, reconnect_s=0.5)
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable, match="lost"):
            await text(generation)
    assert len(link.hellos) > 2


async def test_text_begins_the_time_to_reconnect_anew(begin: Begin) -> None:
    """It is lost again and again, for longer in all than one loss may last."""
    generation, _ = begin(*[1] * NUM_TOKENS, reconnect_s=0.12)
    assert await text(generation) == list(range(NUM_TOKENS))


async def test_a_generation_that_its_edge_ends_answers_with_the_reason(
    begin: Begin,
) -> None:
    generation, _ = begin(Unavailable("away"), for_ever=True)
    generation.fail(Unavailable("stopping"))
    with pytest.raises(Unavailable, match="stopping"):
        await text(generation)


async def test_what_nobody_thought_of_is_answered_in_a_sentence(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    generation, _ = begin(NotImplementedError("torn"))
    async with asyncio.timeout(10):
        with pytest.raises(InternalError, match="this edge failed on the request"):
            await text(generation)
    assert "NotImplementedError: torn" in caplog.text


async def test_a_text_whose_end_cannot_be_booked_has_its_last_token(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation, _ = begin(NUM_TOKENS)

    def fail() -> None:
        raise NotImplementedError("torn")

    monkeypatch.setattr(generation.stream, "finish", fail)
    async with asyncio.timeout(10):
        assert await text(generation) == list(range(NUM_TOKENS))
