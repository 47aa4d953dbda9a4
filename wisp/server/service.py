"""Admission and sessions: the one thing behind both fronts, which only translate."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator

from wisp.attainment import Attainment
from wisp.config import ServerConfig
from wisp.core import Directive, DraftBlock, Slo, Verdict
from wisp.engine.client import EngineClient, EngineSession
from wisp.engine.messages import Open as EngineOpen
from wisp.errors import (
    BadRequest,
    HandshakeError,
    ModelNotFound,
    Overloaded,
    PromptTooLong,
    ProtocolError,
    Unavailable,
    WispError,
)
from wisp.metrics import ServerMetrics
from wisp.models.tokenizer import Tokenizer
from wisp.openai.backend import ModelCard
from wisp.server.classes import SloClasses
from wisp.wire import PROTOCOL, Open, check_sampling

log = logging.getLogger(__name__)


class ServerSession:
    """A generation in the engine. Iterate its verdicts; `close` frees it on every way out."""

    def __init__(
        self, session: EngineSession, slo: Slo, card: ModelCard, metrics: ServerMetrics
    ) -> None:
        self._session = session
        self._card = card
        self._metrics = metrics
        self._opened_s = time.monotonic()
        self.attainment = Attainment(slo, self._opened_s)

    async def __aiter__(self) -> AsyncIterator[Verdict]:
        first = True
        try:
            async for verdict in self._session:
                if first:
                    self._metrics.first_token_s.observe(time.monotonic() - self._opened_s)
                    first = False
                self.attainment.add(len(verdict.tokens), verdict.committed_s)
                yield verdict
        except WispError as error:
            self._metrics.failed.labels(type(error).__name__).inc()
            raise

    def draft(self, block: DraftBlock) -> None:
        """Raises ProtocolError if a token is outside the vocabulary."""
        _check_tokens(block.tokens, self._card.vocab_size, "draft", ProtocolError)
        self._session.draft(block)

    def fail(self, error: WispError) -> None:
        """End the session with an error that its front found; nobody else is touched."""
        self._session.fail(error)

    def close(self) -> None:
        self._session.close()

    async def aclose(self) -> None:
        self.close()

    def stats(self) -> dict[str, float]:
        return {}


def first_directive(config: ServerConfig) -> Directive:
    return Directive(config.speculation.window, config.speculation.threshold)


class Service:
    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Tokenizer,
        config: ServerConfig,
        metrics: ServerMetrics,
    ) -> None:
        self._engine = engine
        self._config = config
        self._metrics = metrics
        self._draining = False
        self.tokenizer = tokenizer
        facts = engine.facts
        self.card = ModelCard(
            id=facts.model,
            created=int(time.time()),
            max_model_len=facts.max_model_len,
            vocab_size=facts.vocab_size,
            eos_token_ids=facts.eos_token_ids,
        )
        self.classes = SloClasses(config)
        metrics.sessions.set_function(lambda: engine.num_sessions)

    @property
    def directive(self) -> Directive:
        """What an edge may do before its first verdict: draft while its prompt is prefilled."""
        return first_directive(self._config)

    @property
    def max_window(self) -> int:
        return self._config.speculation.max_window

    def open(self, opening: Open, *, from_edge: bool) -> ServerSession:
        """Admit a generation, or say at once why not.

        Raises BadRequest, HandshakeError, Overloaded or Unavailable.
        """
        try:
            if reason := self.refusal():
                raise Unavailable(reason)
            self._check(opening)
            if from_edge:
                self._check_edge(opening)
            slo = self.classes.promise(opening.slo)
            if not self._engine.can_admit(slo.priority):
                raise Overloaded(
                    f"all {self._engine.facts.max_sessions} sessions are taken: try again later",
                    retry_after_s=1.0,
                )
        except WispError as error:
            self._metrics.refused.labels(type(error).__name__).inc()
            raise
        session = self._engine.open(
            EngineOpen(
                session_id=self._engine.next_id(),
                prompt=opening.prompt,
                committed=opening.committed,
                sampling=opening.sampling,
                slo=slo,
                has_edge=from_edge and opening.drafts,
                speculates=opening.drafts,
            )
        )
        return ServerSession(session, slo, self.card, self._metrics)

    def refusal(self) -> str | None:
        """Why no session is taken now, if none is."""
        if self._engine.lost.is_set():
            return "the engine has stopped: restart wisp-server"
        if self._draining:
            return "this server is draining: use another one"
        return None

    async def drain(self, timeout_s: float) -> None:
        """Take no more sessions; let the running ones finish within `timeout_s`."""
        self._draining = True
        try:
            await asyncio.wait_for(self._engine.idle.wait(), timeout_s)
        except TimeoutError:
            log.warning("%d sessions are cut off after the drain", self._engine.num_sessions)

    def _check(self, opening: Open) -> None:
        card = self.card
        if opening.model and opening.model != card.id:
            raise ModelNotFound(
                f"the model '{opening.model}' is not served here: use '{card.id}'", param="model"
            )
        if not opening.prompt:
            raise BadRequest("the prompt is empty: send at least one token", param="prompt")
        check_sampling(opening.sampling)
        for name, ids in (
            ("prompt", opening.prompt),
            ("committed", opening.committed),
            ("logit_bias", list(opening.sampling.logit_bias)),
            ("stop_token_ids", list(opening.sampling.stop_token_ids)),
        ):
            _check_tokens(ids, card.vocab_size, name, BadRequest)
        wanted = len(opening.prompt) + opening.sampling.max_tokens
        if wanted > card.max_model_len:
            raise PromptTooLong(
                f"{len(opening.prompt)} prompt tokens and max_tokens "
                f"{opening.sampling.max_tokens} exceed the context of {card.max_model_len} "
                f"tokens: shorten the prompt or lower max_tokens",
                param="prompt",
            )
        if len(opening.committed) >= opening.sampling.max_tokens:
            raise BadRequest("the generation to resume is already complete", param="committed")

    def _check_edge(self, opening: Open) -> None:
        if opening.protocol != PROTOCOL:
            raise HandshakeError(
                f"the edge speaks protocol {opening.protocol}, this server {PROTOCOL}: "
                "install the same version of WISP on both"
            )
        if opening.tokenizer_fingerprint != self.tokenizer.fingerprint:
            raise HandshakeError(
                f"the drafter's tokenizer '{opening.tokenizer_name}' "
                f"({opening.tokenizer_fingerprint}) is not that of the target "
                f"'{self.tokenizer.name}' ({self.tokenizer.fingerprint}): "
                "use a drafter with the target's tokenizer"
            )


def _check_tokens(ids: list[int], vocab_size: int, name: str, kind: type[BadRequest]) -> None:
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        wrong = next(id for id in ids if not 0 <= id < vocab_size)
        raise kind(
            f"{name} holds token {wrong}, outside the vocabulary of {vocab_size}", param=name
        )
