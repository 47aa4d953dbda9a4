"""Admission and sessions: the one thing behind both fronts, which only translate."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import msgspec
from msgspec import structs

from wisp.config import ServerConfig
from wisp.core.drafts import Directive
from wisp.engine.build import policy_choice
from wisp.engine.client import EngineClient
from wisp.engine.messages import Open as EngineOpen
from wisp.engine.messages import Snapshot, SwitchPolicy
from wisp.errors import (
    BadRequest,
    HandshakeError,
    Overloaded,
    PromptTooLong,
    Unavailable,
    WispError,
)
from wisp.metrics import ServerMetrics
from wisp.models.tokenizer import Tokenizer
from wisp.openai.backend import ModelCard
from wisp.scheduler.tuning import PolicyChoice
from wisp.server.classes import SloClasses
from wisp.server.records import Records
from wisp.server.report import report
from wisp.server.session import ServerSession, check_tokens
from wisp.stats import Stats
from wisp.wire import PROTOCOL, Open, check_sampling

log = logging.getLogger(__name__)


class Service:
    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Tokenizer,
        config: ServerConfig,
        metrics: ServerMetrics,
        records: Records,
    ) -> None:
        self._engine = engine
        self._config = config
        self._metrics = metrics
        self._records = records
        self._policy = policy_choice(config)
        self._draining = False
        self._stats: tuple[Snapshot, Stats] | None = None
        self.tokenizer = tokenizer
        facts = engine.facts
        self.card = ModelCard(
            id=facts.model,
            created=int(time.time()),
            max_model_len=facts.max_model_len,
            vocab_size=facts.vocab_size,
            eos_token_ids=facts.eos_token_ids,
            adapters=facts.adapters,
        )
        self._classes = SloClasses(config)
        metrics.sessions.set_function(lambda: engine.num_sessions)
        metrics.devices.set_function(lambda: records.num_devices(time.monotonic()))

    @property
    def directive(self) -> Directive:
        """What an edge may do before its first verdict: draft while its prompt is prefilled."""
        return self._policy.first

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
            adapter = self.card.adapter(opening.model) if opening.model else None
            self._check(opening)
            if from_edge:
                self._check_edge(opening)
            slo = self._classes.promise(opening.slo)
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
                adapter=adapter,
                has_edge=from_edge and opening.drafts,
                speculates=opening.drafts,
            )
        )
        device = opening.device if from_edge else None
        record = self._records.opened(session.id, slo, device, time.monotonic())
        return ServerSession(
            session,
            record,
            self._records,
            vocab_size=self.card.vocab_size,
            max_window=self.max_window,
        )

    async def stats(self) -> Stats:
        """At most as often as the engine is asked. Raises Unavailable if it does not answer."""
        snapshot = await self._engine.snapshot()
        if self._stats is None or self._stats[0] is not snapshot:
            stats = report(
                self._records,
                snapshot,
                model=self.card.id,
                policy=self._policy.policy,
                max_sessions=self._engine.facts.max_sessions,
                now=time.monotonic(),
            )
            self._stats = snapshot, stats
        return self._stats[1]

    def switch_policy(self, asked: dict[str, Any]) -> PolicyChoice:
        """Schedule by another policy; what is not asked for is as configured. Sessions go on.

        Raises BadRequest.
        """
        limits = self._config
        try:
            default = structs.asdict(policy_choice(limits))
            choice = msgspec.convert(default | asked, PolicyChoice)
        except msgspec.ValidationError as error:
            raise BadRequest(f"this is no policy: {error}") from error
        for name, value, most in (
            ("window", choice.first.window, limits.speculation.max_window),
            ("max_step_tokens", choice.max_step_tokens, limits.scheduling.max_step_tokens),
        ):
            if value > most:
                raise BadRequest(f"{name} {value} exceeds the {most} that it started with", name)
        self._policy, self._stats = choice, None
        self._engine.send(SwitchPolicy(choice))
        return choice

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
        if not opening.prompt:
            raise BadRequest("the prompt is empty: send at least one token", param="prompt")
        check_sampling(opening.sampling)
        if opening.sampling.structure and not self._engine.facts.structures:
            raise BadRequest(
                "this server's engine has no structured outputs: leave out response_format and "
                "structured_outputs, or start it with the engine 'vllm'",
                param="response_format",
            )
        for name, ids in (
            ("prompt", opening.prompt),
            ("committed", opening.committed),
            ("logit_bias", list(opening.sampling.logit_bias)),
            ("stop_token_ids", list(opening.sampling.stop_token_ids)),
        ):
            check_tokens(ids, card.vocab_size, name, BadRequest)
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
