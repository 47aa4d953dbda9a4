"""An emulated edge: the real draft stream over real gRPC, a replayed drafter, an added distance.

`wisp.edge.generation` runs as it does on a device. In place of a drafter's forward passes its time
passes; what it drafts is right where the text says so, and its confidence is the text's.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from random import Random
from typing import Any

from benchmarks.load.users import Ask, Came, chain
from benchmarks.sim.network import Line
from benchmarks.sim.profiles import Device
from benchmarks.sim.text import Text, Texts
from wisp import wire
from wisp.config import DrafterSettings
from wisp.core.card import ModelCard
from wisp.core.request import Request, Sampling
from wisp.core.slo import Slo
from wisp.edge.drafter.base import Proposal
from wisp.edge.generation import EdgeGeneration
from wisp.edge.link import Link, Outbox
from wisp.edge.predictor import Predictor
from wisp.edge.stream import Begun
from wisp.metrics import EdgeMetrics
from wisp.v1 import wisp_pb2 as pb

_BLOCK_TOKENS = DrafterSettings().block_tokens


class DistantLink(Link):
    """Messages take their time, each way."""

    def __init__(self, link: Link, up: Line, down: Line) -> None:
        self.address = link.address
        self._link = link
        self._up, self._down = up, down

    async def generate(
        self, request: Request, hello: wire.Hello, outbox: Outbox
    ) -> AsyncGenerator[pb.ServerMessage, None]:
        await asyncio.sleep(self._up.arrival_s(time.monotonic()) - time.monotonic())
        arrived: Outbox = asyncio.Queue()
        received: asyncio.Queue[pb.ServerMessage | Exception | None] = asyncio.Queue()
        tasks = [
            asyncio.create_task(_send(outbox, _Delay(self._up, arrived))),
            asyncio.create_task(
                _receive(self._link.generate(request, hello, arrived), _Delay(self._down, received))
            ),
        ]
        try:
            while (message := await received.get()) is not None:
                if isinstance(message, Exception):
                    raise message
                yield message
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def _receive(answers: AsyncGenerator[pb.ServerMessage, None], down: _Delay) -> None:
    try:
        async with aclosing(answers):
            async for message in answers:
                down.put(message)
    except Exception as error:
        down.put(error)
    else:
        down.put(None)


async def _send(outbox: Outbox, up: _Delay) -> None:
    while True:
        up.put(await outbox.get())


class _Delay:
    """Before a queue: messages come into it later, in their order."""

    def __init__(self, line: Line, queue: asyncio.Queue[Any]) -> None:
        self._line = line
        self._queue = queue
        self._pending: deque[object] = deque()

    def put(self, message: object) -> None:
        self._pending.append(message)
        loop = asyncio.get_running_loop()  # whose clock is the monotonic one
        loop.call_at(self._line.arrival_s(loop.time()), self._deliver)

    def _deliver(self) -> None:
        self._queue.put_nowait(self._pending.popleft())


class Edge:
    """A `Connection` of one device; it drafts for one session at a time."""

    def __init__(
        self,
        number: int,
        link: Link,
        card: ModelCard,
        model: pb.Model,
        *,
        profile: Device,
        lines: tuple[Line, Line],
        texts: Texts,
        predictor: Predictor,
        metrics: EdgeMetrics,
        seed: int,
    ) -> None:
        self._number = number
        self._link = DistantLink(link, *lines)
        self._card = card
        self._model = model
        self._profile = profile
        self._texts = texts
        self._predictor = predictor
        self._metrics = metrics
        self._seed = seed
        self._speed = Random(f"speed {seed} {number}")
        self._text = Text([], [])
        self._generation: EdgeGeneration | None = None
        self._drafting = False  # its one thread is at work
        self._breadth = profile.breadth()
        self._ready_s = 0.0  # when it has read the prompt

    async def answer(self, ask: Ask, slo: Slo) -> AsyncGenerator[Came, None]:
        self._text = self._texts.make(ask.num_output, (self._seed, self._number, ask.number))
        # Its drafter has kept what it computed of the conversation.
        length = len(ask.prompt) - ask.num_before + ask.num_done
        self._ready_s = time.monotonic() + length / self._profile.prefill_tokens_per_s
        generation = self._generation = EdgeGeneration(
            self._link,
            self.request(ask, slo),
            self._hello(),
            predictor=self._predictor,
            vocab_size=self._card.vocab_size,
            block_tokens=_BLOCK_TOKENS,
            reconnect_s=0.0,
            metrics=self._metrics,
            on_change=self._draft,
            on_end=lambda: None,
        )
        generation.stream.committed += ask.known(self._card.vocab_size)
        try:
            async for verdict in generation:
                last = generation.stream.committed[verdict.position - 1]
                right = chain(last + 1, len(verdict.tokens), self._card.vocab_size)
                num_wrong = sum(a != b for a, b in zip(right, verdict.tokens, strict=True))
                yield Came(len(verdict.tokens), time.monotonic(), num_wrong)
        finally:
            self._generation = None
            await generation.aclose()

    def request(self, ask: Ask, slo: Slo) -> Request:
        # It decides nothing at temperature 0, but how right the server's own drafts are.
        seed = Random(f"request {self._seed} {self._number} {ask.number}").getrandbits(32)
        return Request(
            prompt=ask.prompt,
            sampling=Sampling(max_tokens=ask.num_output, seed=seed, temperature=0.0),
            slo=slo,
            model=self._card.id,
        )

    def _hello(self) -> wire.Hello:
        return wire.Hello(
            tokenizer_name=self._model.tokenizer_name,
            tokenizer_fingerprint=self._model.tokenizer_fingerprint,
            device=f"{self._profile.name} {self._number}",
        )

    def _draft(self) -> None:
        """What `wisp.edge.drafting` does, as events: a step begins if a token is wanted."""
        generation = self._generation
        if generation is None or self._drafting or not generation.stream.wants_token:
            return
        self._drafting = True
        leaves = generation.stream.wanted()[: len(self._profile.branch_costs)]
        del leaves[self._breadth.best([leaf.cumulative for leaf in leaves]) :]
        begun = [generation.stream.begin(leaf) for leaf in leaves]
        time_s = self._speed.lognormvariate(0.0, self._profile.jitter) / self._profile.tokens_per_s
        time_s *= self._profile.branch_costs[len(begun) - 1]
        loop = asyncio.get_running_loop()
        start_s = max(loop.time(), self._ready_s)
        loop.call_at(start_s + time_s, self._drafted, generation, begun, time_s)

    def _drafted(self, generation: EdgeGeneration, begun: list[Begun], time_s: float) -> None:
        self._drafting = False
        if generation is self._generation:
            for token in begun:
                proposal = self._proposal(generation, token)
                generation.take_proposal(token, proposal, time_s / len(begun))
            generation.flush()
        self._draft()

    def _proposal(self, generation: EdgeGeneration, begun: Begun) -> Proposal:
        proposal = self._text.proposal(
            begun.position, begun.position - generation.stream.num_prompt
        )
        last = generation.stream.sequence(begun.leaf)[-1] if begun.leaf.alive else 0
        found = [
            # The next token is right; others are further on.
            replace(each, token=(last + step) % self._card.vocab_size, alternatives=())
            for each in (proposal, *proposal.alternatives)
            for step in [1 if each.token == begun.position else 1 - each.token]
        ]
        return replace(found[0], alternatives=tuple(found[1:]))
