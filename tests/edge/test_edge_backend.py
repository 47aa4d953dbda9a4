"""What an edge knows of the target that its server serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from wisp.config import TINY, EdgeConfig
from wisp.core.card import ModelCard
from wisp.core.request import Request, Sampling
from wisp.edge.drafting import DraftLoop
from wisp.edge.edge_backend import EdgeBackend
from wisp.edge.predictor import ConfidencePredictor
from wisp.errors import HandshakeError, Unavailable
from wisp.metrics import EdgeMetrics
from wisp.models.tokenizer import Tokenizer
from wisp.testing.drafter import ScriptedDrafter
from wisp.v1 import wisp_pb2 as pb


class FakeLink:
    """A server that can be away, or come back with another target."""

    address = "server:1"
    padding = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.served = "one"
        self.tokenizer = tokenizer
        self.vocabulary = tokenizer.vocabulary
        self.away = False
        self.num_asked = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def model(
        self, fingerprint: str = "", timeout_s: float = 5.0
    ) -> tuple[ModelCard, pb.Model]:
        self.num_asked += 1
        await self.answers.wait()
        if self.away:
            raise Unavailable("away")
        card = ModelCard(
            id=self.served, created=0, max_model_len=9, vocab_size=4096, eos_token_ids=(0,)
        )
        known = fingerprint == self.tokenizer.fingerprint
        return card, pb.Model(
            tokenizer_fingerprint=self.tokenizer.fingerprint,
            vocabulary_fingerprint=self.vocabulary,
            prompt_rules="" if known else self.tokenizer.rules,
        )


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TINY / "draft")


@pytest.fixture
def link(tokenizer: Tokenizer) -> Any:
    return FakeLink(tokenizer)


@pytest.fixture
def targets() -> list[str]:
    return []


@pytest.fixture
async def backend(
    link: Any, tokenizer: Tokenizer, targets: list[str]
) -> AsyncIterator[EdgeBackend]:
    metrics = EdgeMetrics()
    drafter = ScriptedDrafter(lambda key, position, previous: 5)
    loop = DraftLoop(drafter, ConfidencePredictor(), 1, metrics)
    yield EdgeBackend(link, loop, tokenizer, EdgeConfig(), metrics, targets.append)
    await loop.stop()


async def test_it_asks_once_a_connection(
    backend: EdgeBackend, link: Any, targets: list[str]
) -> None:
    backend.on_connection(True)
    assert [(await backend.model()).id for _ in range(3)] == ["one"] * 3
    assert link.num_asked == 1
    backend.on_connection(False)
    link.served = "two"
    backend.on_connection(True)
    assert [(await backend.model()).id for _ in range(3)] == ["two"] * 3
    assert link.num_asked == 2
    assert targets == ["one", "two"]


async def test_what_it_knew_holds_while_the_server_is_away(backend: EdgeBackend, link: Any) -> None:
    link.away = True
    with pytest.raises(Unavailable):
        await backend.model()
    link.away = False
    await backend.model()
    link.away = True
    backend.on_connection(True)
    assert (await backend.model()).id == "one"
    assert await backend.health() == "the server at server:1 does not serve this edge: away"


async def test_a_request_that_a_drain_overtakes_is_refused(backend: EdgeBackend, link: Any) -> None:
    """It waited for the server while the edge began to stop: nobody would wait for its text."""
    link.answers.clear()
    request = Request(prompt=[1], sampling=Sampling(max_tokens=1, seed=0))
    asking = asyncio.create_task(backend.generate(request))
    await asyncio.sleep(0)
    await backend.drain(0.0, asyncio.Event())
    link.answers.set()
    with pytest.raises(Unavailable, match="this edge is stopping"):
        await asking
    assert not backend.running


async def test_a_server_that_comes_back_with_another_tokenizer_is_refused(
    backend: EdgeBackend, link: Any
) -> None:
    await backend.model()
    link.vocabulary = "other"
    backend.on_connection(True)
    with pytest.raises(HandshakeError, match="is not that of the target 'one'"):
        await backend.model()
