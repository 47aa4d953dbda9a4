"""Admission and sessions: the one thing behind both fronts, which only translate."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import msgspec
from msgspec import structs

from wisp.access.gate import CALLER, Caller, Gate
from wisp.config import ServerConfig, SloClass
from wisp.core.card import ModelCard
from wisp.core.drafts import Directive
from wisp.core.request import TAGS, Request
from wisp.core.slo import Slo, SloClasses
from wisp.engine.build import policy_choice
from wisp.engine.client import EngineClient
from wisp.engine.messages import Open, Snapshot, SwitchPolicy
from wisp.errors import (
    BadRequest,
    Forbidden,
    HandshakeError,
    Overloaded,
    Superseded,
    Unavailable,
    WispError,
)
from wisp.launch import until_any
from wisp.models.tokenizer import Tokenizer
from wisp.scheduler.tuning import PolicyChoice
from wisp.server.report import report
from wisp.server.server_session import ServerSession
from wisp.server.telemetry import Telemetry
from wisp.stats import Stats
from wisp.wire import OLDEST_PROTOCOL, PROTOCOL, Hello

log = logging.getLogger(__name__)

# How soon to try again when all sessions are taken. Chosen: the time in which one of a few dozen
# sessions of some ten seconds each ends.
_RETRY_AFTER_S = 1.0


class Service:
    """Also the `Backend` of the server's own HTTP front (wisp.openai.backend)."""

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Tokenizer,
        config: ServerConfig,
        telemetry: Telemetry,
    ) -> None:
        self._engine = engine
        self._config = config
        self._telemetry = telemetry
        self._policy = policy_choice(config)
        self._draining = False
        self._nobody = Gate().caller(None)
        self._owners: dict[ServerSession, tuple[Caller, bytes]] = {}  # with its resume key
        self._by_key: dict[tuple[str, bytes], ServerSession] = {}  # those that may be resumed
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
        self._classes = slo_classes(config)
        telemetry.metrics.sessions.num_open.set_function(lambda: engine.num_sessions)
        telemetry.serves(facts.model)

    @property
    def directive(self) -> Directive:
        """What an edge may do before its first verdict: draft while its prompt is prefilled."""
        return self._policy.first

    @property
    def max_forks(self) -> int:
        return self._config.speculation.max_forks

    @property
    def num_owned(self) -> int:
        """Sessions that somebody's quota counts."""
        return len(self._owners)

    @property
    def max_sessions(self) -> int:
        return self._engine.facts.max_sessions

    @property
    def max_window(self) -> int:
        return self._config.speculation.max_window

    def open(
        self, request: Request, hello: Hello | None = None, caller: Caller | None = None
    ) -> ServerSession:
        """Admit a generation, or say at once why not; `hello` is an edge's, which may draft.

        Raises BadRequest, HandshakeError, Forbidden, Overloaded or Unavailable.
        """
        caller = caller or self._nobody
        try:
            opening = self._admit(request, hello, caller)
        except WispError as error:
            self._telemetry.refused(error)
            raise
        return self._begin(opening, hello, caller)

    def _admit(self, request: Request, hello: Hello | None, caller: Caller) -> Open:
        before = self._by_key.get((caller.name, hello.resume_key)) if hello else None
        if reason := self.refusal():
            raise Unavailable(reason)
        request = self._enforced(request)
        adapter = self.card.adapter(request.model) if request.model else None
        self.card.check(request)
        self._check_structure(request)
        if hello:
            self._check_edge(hello)
        slo = self._classes.promise(request.slo)
        if before:
            before.fail(Superseded("this generation was resumed on another stream"))
            self._closed(before)
        caller.usage.check(slo, resumes=bool(before or request.committed))
        if not self._engine.can_admit(slo.priority, caller.name):
            raise Overloaded(
                f"all {self._engine.facts.max_sessions} sessions are taken: try again later",
                retry_after_s=_RETRY_AFTER_S,
            )
        return Open(
            session_id=self._engine.next_id(),
            request=request,
            slo=slo,
            adapter=adapter,
            has_edge=hello is not None and request.speculation,
            owner=caller.name,
        )

    def _begin(self, opening: Open, hello: Hello | None, caller: Caller) -> ServerSession:
        session, num_prompt = self._engine.open(opening), len(opening.request.prompt)
        record = self._telemetry.opened(
            session.id,
            opening.slo,
            hello.device if hello else None,
            time.monotonic(),
            num_prompt=num_prompt,
            resumed=bool(opening.request.committed),
        )
        opened = ServerSession(
            session,
            record,
            self._telemetry,
            vocab_size=self.card.vocab_size,
            max_window=self.max_window,
            usage=caller.usage,
            num_prompt=num_prompt,
            on_close=self._closed,
        )
        caller.usage.opened(num_prompt)
        resume_key = hello.resume_key if hello else b""
        self._owners[opened] = caller, resume_key
        if resume_key:
            self._by_key[caller.name, resume_key] = opened
        return opened

    def _closed(self, session: ServerSession) -> None:
        """On every way out; a second time changes nothing."""
        if owner := self._owners.pop(session, None):
            caller, resume_key = owner
            caller.usage.closed()
            if self._by_key.get((caller.name, resume_key)) is session:
                del self._by_key[caller.name, resume_key]

    def revoke(self, gate: Gate) -> None:
        """End the sessions of those who would not be let in any more."""
        for session, (caller, _) in list(self._owners.items()):
            if not gate.holds(caller):
                session.fail(Forbidden("the key of this session was revoked"))

    async def model(self) -> ModelCard:
        return self.card

    async def generate(self, request: Request) -> ServerSession:
        """A session without an edge."""
        return self.open(request, caller=CALLER.get())

    async def health(self) -> str | None:
        return self.refusal()

    async def stats(self) -> Stats:
        """At most as often as the engine is asked. Raises Unavailable if it does not answer."""
        snapshot = await self._engine.snapshot()
        if self._stats is None or self._stats[0] is not snapshot:
            stats = report(
                self._telemetry,
                snapshot,
                facts=self._engine.facts,
                policy=self._policy.policy,
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
        for name, value, limit in (
            ("window", choice.first.window, limits.speculation.max_window),
            ("max_step_tokens", choice.max_step_tokens, limits.scheduling.max_step_tokens),
        ):
            if value > limit:
                raise BadRequest(f"{name} {value} exceeds the {limit} that it started with", name)
        self._policy, self._stats = choice, None
        self._engine.send(SwitchPolicy(choice))
        return choice

    def refusal(self) -> str | None:
        """Why no session is taken now, if none is."""
        if self._engine.lost.is_set():
            return "the engine has stopped: restart wisp-server"
        if self._engine.hangs:
            return "the engine does not answer: try again later"
        if self._draining:
            return "this server is draining: use another one"
        return None

    async def drain(self, timeout_s: float, hurry: asyncio.Event) -> None:
        """Take no more sessions; let the running ones finish within `timeout_s`, or until `hurry`.

        Then those that are left are answered with an error.
        """
        self._draining = True
        await until_any(self._engine.idle, hurry, timeout_s=timeout_s)
        if self._engine.num_sessions:
            log.warning("%d sessions are cut off after the drain", self._engine.num_sessions)
        self._engine.fail_all(Unavailable("this server has stopped: send the request again"))

    def _enforced(self, request: Request) -> Request:
        """Calls in a free text are no promise of an engine that has no structures."""
        structure = request.sampling.structure
        if structure is None or structure.kind != TAGS or self._engine.facts.structures:
            return request
        return structs.replace(request, sampling=structs.replace(request.sampling, structure=None))

    def _check_structure(self, request: Request) -> None:
        if request.sampling.structure and not self._engine.facts.structures:
            raise BadRequest(
                "this server's engine has no structured outputs: leave out response_format and "
                "structured_outputs, or start it with the engine 'vllm'",
                param="response_format",
            )

    def _check_edge(self, hello: Hello) -> None:
        if not OLDEST_PROTOCOL <= hello.protocol <= PROTOCOL:
            raise HandshakeError(
                f"the edge speaks protocol {hello.protocol}, this server {OLDEST_PROTOCOL} to "
                f"{PROTOCOL}: install the same version of WISP on both"
            )
        if hello.tokenizer_fingerprint != self.tokenizer.fingerprint:
            raise HandshakeError(
                f"the drafter's tokenizer '{hello.tokenizer_name}' "
                f"({hello.tokenizer_fingerprint}) is not that of the target "
                f"'{self.tokenizer.name}' ({self.tokenizer.fingerprint}): "
                "use a drafter with the target's tokenizer"
            )


def slo_classes(config: ServerConfig) -> SloClasses:
    def slo(name: str, kind: SloClass) -> Slo:
        return Slo(
            name=name,
            tokens_per_s=kind.tokens_per_s,
            first_token_s=kind.first_token_s,
            priority=kind.priority,
        )

    others = [slo(name, kind) for name, kind in config.slo_classes.items()]
    return SloClasses(slo("default", config.slo), others)
