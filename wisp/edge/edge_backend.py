"""The edge's side of the OpenAI routes: a generation goes over the link, and is drafted here."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import socket
from collections.abc import Callable

from msgspec import structs

from wisp import wire
from wisp.config import EdgeConfig
from wisp.core.card import ModelCard
from wisp.core.request import Request
from wisp.edge.backoff import Backoff
from wisp.edge.drafting import DraftLoop
from wisp.edge.generation import EdgeGeneration
from wisp.edge.link import Link
from wisp.errors import HandshakeError, Unavailable, WispError
from wisp.launch import until_any
from wisp.metrics import EdgeMetrics
from wisp.models.tokenizer import Tokenizer
from wisp.openai.backend import Generation
from wisp.v1 import wisp_pb2 as pb

log = logging.getLogger(__name__)


class EdgeBackend:
    def __init__(
        self,
        link: Link,
        loop: DraftLoop,
        tokenizer: Tokenizer,
        config: EdgeConfig,
        metrics: EdgeMetrics,
        on_target: Callable[[str], None] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._link = link
        self._loop = loop
        self._config = config
        self._metrics = metrics
        self._on_target = on_target
        self._keys = itertools.count()
        self._card: ModelCard | None = None
        self._protocol = wire.PROTOCOL
        self._card_is_old = False  # the connection was made anew: to another server, perhaps
        self._draining = False
        self.running: dict[int, EdgeGeneration] = {}
        self.idle = asyncio.Event()
        self.idle.set()
        metrics.sessions.set_function(lambda: len(self.running))
        metrics.calibration_error.set_function(lambda: loop.predictor.calibration_error)

    async def model(self) -> ModelCard:
        """The served target, asked for once a connection. Raises Unavailable, HandshakeError."""
        if self._card is None or self._card_is_old:
            try:
                await self._know(*await self._link.model(self.tokenizer.fingerprint))
            except Unavailable:
                if self._card is None:
                    raise  # else a request waits for the server as one that runs does
        assert self._card
        return self._card

    async def _know(self, card: ModelCard, model: pb.Model) -> None:
        own = self.tokenizer
        if model.vocabulary_fingerprint != own.vocabulary:
            raise HandshakeError(
                f"the tokenizer '{own.name}' ({own.vocabulary}) of this edge is not that of the "
                f"target '{card.id}' ({model.vocabulary_fingerprint}): use a drafter with the "
                "target's tokenizer"
            )
        if self._link.padding and not model.padding:
            raise HandshakeError(
                "this edge pads its drafts, and the server no verdicts: set "
                "--padding.message_bytes there, too, or 0 here"
            )
        if model.tokenizer_fingerprint != own.fingerprint:
            # The target's chat template and rules decide its prompts, whatever the drafter's are.
            self.tokenizer = await asyncio.to_thread(own.with_rules, model.prompt_rules)
        before, self._card, self._card_is_old = self._card, card, False
        self._protocol = min(wire.PROTOCOL, model.protocol)  # an older server's, if it is one
        if self._on_target and (before is None or before.id != card.id):
            self._on_target(card.id)

    def on_connection(self, up: bool) -> None:
        """The link says whether there is a connection, now and on every change."""
        self._metrics.connected.set(up)
        self._card_is_old |= up

    async def connect(self) -> None:
        """Ask for the model until the server answers. Raises HandshakeError if it cannot fit."""
        backoff = Backoff()
        while True:
            try:
                card = await self.model()
            except Unavailable as error:
                log.warning("no server at %s yet: %s", self._link.address, error)
                await backoff.wait()
            else:
                log.info("drafting for '%s' at %s", card.id, self._link.address)
                return

    async def generate(self, request: Request) -> Generation:
        card = await self.model()
        if self._draining:  # now, though it may not have been before
            raise Unavailable("this edge is stopping: send the request again later")
        card.check(request)
        drafts = request.speculation and self._loop.has_room(len(request.prompt))
        request = structs.replace(request, speculation=drafts, model=request.model or card.id)
        hello = wire.Hello(
            tokenizer_name=self.tokenizer.name,
            tokenizer_fingerprint=self.tokenizer.fingerprint,
            device=self._config.device_name or socket.gethostname(),
            protocol=self._protocol,
        )
        key = next(self._keys)
        self.idle.clear()
        generation = self.running[key] = EdgeGeneration(
            self._link,
            request,
            hello,
            predictor=self._loop.predictor,
            vocab_size=card.vocab_size,
            block_tokens=self._config.drafter.block_tokens,
            reconnect_s=self._config.reconnect_s,
            metrics=self._metrics,
            on_change=self._loop.wake,
            on_end=functools.partial(self._end, key),
        )
        if drafts:
            self._loop.add(key, generation)
        return generation

    async def health(self) -> str | None:
        if self._draining:
            return "this edge is stopping"
        try:
            known = self.tokenizer.fingerprint
            await self._know(*await self._link.model(known, timeout_s=2.0))
        except WispError as error:
            return f"the server at {self._link.address} does not serve this edge: {error}"
        return None

    async def drain(self, timeout_s: float, hurry: asyncio.Event) -> None:
        """Take no more requests; let the running ones finish within `timeout_s`, or until `hurry`.

        Then those that are left are answered with an error.
        """
        self._draining = True
        await until_any(self.idle, hurry, timeout_s=timeout_s)
        if self.running:
            log.warning("%d generations are cut off after the drain", len(self.running))
        for generation in list(self.running.values()):
            generation.fail(Unavailable("this edge has stopped: send the request again later"))

    def _end(self, key: int) -> None:
        self._loop.remove(key)
        self.running.pop(key, None)
        if not self.running:
            self.idle.set()
