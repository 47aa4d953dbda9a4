"""One generation on an edge: its draft stream, its gRPC stream, and what if that breaks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from msgspec import structs

from wisp import wire
from wisp.core.drafts import Verdict
from wisp.core.request import Request, Sampling
from wisp.core.slo import Attainment
from wisp.edge.backoff import Backoff
from wisp.edge.drafter.base import Proposal
from wisp.edge.link import Link, Outbox
from wisp.edge.predictor import Predictor
from wisp.edge.stream import Begun, Stream
from wisp.edge.traced import TracedGeneration
from wisp.errors import (
    HandshakeError,
    InternalError,
    ModelNotFound,
    Overloaded,
    Shed,
    Unavailable,
    WispError,
)
from wisp.metrics import EdgeMetrics
from wisp.tasks import begin
from wisp.tracing import Spans
from wisp.v1 import wisp_pb2 as pb

log = logging.getLogger(__name__)

# Of a resume key, in bytes. Chosen: nobody guesses 128 bits.
_KEY_BYTES = 16
# What a resume may be refused with and yet find its place, here later or at another server: its
# text is begun, and whoever waits for it cannot begin anew.
_PASSING = (Unavailable, Overloaded, HandshakeError, ModelNotFound)


class EdgeGeneration:
    """Iterate its verdicts; a lost connection is only a pause between two of them."""

    def __init__(
        self,
        link: Link,
        request: Request,
        hello: wire.Hello,
        *,
        predictor: Predictor,
        vocab_size: int,
        block_tokens: int,
        reconnect_s: float,
        metrics: EdgeMetrics,
        on_change: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self.stream = Stream(request.prompt, request.sampling.max_tokens)
        self._link = link
        self._request = request
        self._hello = structs.replace(hello, resume_key=secrets.token_bytes(_KEY_BYTES))
        self._predictor = predictor
        self._vocab_size = vocab_size
        self._block_tokens = block_tokens
        self._reconnect_s = reconnect_s
        self._metrics = metrics
        self._on_change = on_change
        self._on_end = on_end
        self._outbox: Outbox = asyncio.Queue()
        self._inbox: asyncio.Queue[Verdict | WispError] = asyncio.Queue()
        self._sent: deque[tuple[int, float]] = deque()  # (first position, when) of sent blocks
        self._num_reconnects = 0
        self._opened_s = time.monotonic()
        self._attainment: Attainment | None = None
        self._ended = False
        self.drafts = request.speculation  # whether anything is drafted for it, or may be
        spans = Spans.current()
        self._trace = TracedGeneration(spans) if spans else None
        self._task = begin(self._run, "a generation failed", self._failed)

    async def __aiter__(self) -> AsyncIterator[Verdict]:
        while True:
            item = await self._inbox.get()
            if isinstance(item, WispError):
                raise item
            yield item
            if item.finish_reason:
                return

    @property
    def sampling(self) -> Sampling:
        return self._request.sampling

    @contextlib.contextmanager
    def drafting(self) -> Iterator[None]:
        """What fails in it ends its drafts: not its text, and nothing of others."""
        try:
            yield
        except Exception:
            log.exception("the drafts of a generation failed: it goes on without")
            self.forgo()

    def forgo(self) -> None:
        """It goes on without drafts, whatever directives still come."""
        self.drafts = False
        self.stream.limit(0, 0)

    def take_proposal(self, begun: Begun, proposal: Proposal, time_s: float) -> None:
        """Into the stream, if it still fits there."""
        if self._trace:
            now = time.monotonic()
            self._trace.drafted(now - time_s, now)
        self.stream.finish_token(
            begun,
            proposal,
            time_s,
            predictor=self._predictor,
            temperature=self._request.sampling.temperature,
            vocab_size=self._vocab_size,
        )

    def flush(self) -> None:
        """Send what the stream has ready."""
        if block := self.stream.take_block(self._block_tokens):
            if block.tokens:
                self._sent.append((block.position, time.monotonic()))
            self._outbox.put_nowait(block)

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self._end()

    @property
    def attainment(self) -> Attainment:
        assert self._attainment, "no verdict has come yet"
        return self._attainment

    def stats(self) -> dict[str, float]:
        stream = self.stream
        waste = stream.waste_at_end
        return {
            "edge_drafted_tokens": stream.num_drafted,
            "edge_wasted_tokens": waste.num_tokens,
            "edge_fork_tokens": stream.num_forked,
            "edge_wasted_fork_tokens": stream.num_forked_wasted,
            "wasted_draft_share": waste.num_tokens / max(1, stream.num_drafted),
            "wasted_drafting_time_s": waste.time_s,
            "wasted_drafting_blocking_s": waste.blocking_s,
            "wasted_drafting_overlapped_s": waste.overlapped_s,
            "reconnects": self._num_reconnects,
        }

    def fail(self, error: WispError) -> None:
        """End it with an error of this edge's own."""
        if not self._ended:
            self._task.cancel()
            self._answer(error)

    def _failed(self) -> None:
        self.fail(InternalError("this edge failed on the request: its log says why"))

    def _answer(self, item: Verdict | WispError) -> None:
        """The last item: whoever reads has it, whatever else may fail at the end."""
        self._inbox.put_nowait(item)
        self._end()

    async def _run(self) -> None:
        backoff = Backoff()
        lost_s: float | None = None
        while True:
            num_committed = len(self.stream.committed)
            error = await self._attempt(resumes=self._attainment is not None)
            if self._ended:
                return
            now = time.monotonic()
            if lost_s is None or len(self.stream.committed) > num_committed:
                # Only text counts: a server that opens every stream, and then breaks it, would else
                # be tried for ever.
                lost_s = now
                backoff.reset()
            if not self._may_pass(error) or now - lost_s > self._reconnect_s:
                self._answer(error)
                return
            log.info("stream lost (%s): resuming", error)
            if not isinstance(error, Unavailable):
                self._link.leave()
            await backoff.wait(getattr(error, "retry_after_s", 0.0))

    async def _attempt(self, *, resumes: bool) -> WispError:
        """One stream, until it is over; returns why it is, if it was not the end of the text."""
        if self._trace:
            self._trace.opens(time.monotonic())
        try:
            stream = self._link.generate(self._resume(), self._hello, self._outbox)
            async with contextlib.aclosing(stream):
                async for message in stream:
                    if resumes:
                        resumes = False
                        self._num_reconnects += 1
                        self._metrics.reconnects.inc()
                    self._receive(message)
        except WispError as error:
            return error
        return Unavailable("the server ended the stream without a verdict")

    def _may_pass(self, error: WispError) -> bool:
        """Trying again may help, and nobody could do it in this edge's place."""
        if self._attainment is None:  # nothing was begun: whoever asks is told at once
            return isinstance(error, Unavailable)
        return isinstance(error, _PASSING) and not isinstance(error, Shed)

    def _resume(self) -> Request:
        """The request, with what is committed by now; drafts of the lost stream are sent anew."""
        self.stream.reopen()
        self._sent.clear()
        self._outbox = asyncio.Queue()
        return structs.replace(
            self._request, committed=self.stream.committed[self.stream.num_prompt :]
        )

    def _receive(self, message: pb.ServerMessage) -> None:
        if message.WhichOneof("message") == "opened":
            if self._trace:
                self._trace.opened(time.monotonic())
            if self._attainment is None:  # else a resumed one: the reader has not gone away
                promise = wire.decode_promise(message.opened)
                self._attainment = Attainment(promise, self._opened_s)
            if self.drafts:
                self.stream.directive = wire.decode_directive(message.opened.directive)
                self.stream.max_forks = message.opened.max_forks
            self._draft_on()
            return
        verdict = wire.decode_verdict(message.verdict)
        self._measure(verdict)
        if self._trace:
            self._trace.took(verdict, time.monotonic())
        num_known = len(self.stream.committed) - verdict.position
        fresh = self.stream.take_verdict(verdict)
        self.attainment.add(len(fresh), time.monotonic())
        with self.drafting():
            for label in self.stream.take_labels():
                self._predictor.learn(label)
        told = structs.replace(
            verdict,
            position=verdict.position + num_known,
            tokens=fresh,
            # The edge knows of its forks that were on their way, too.
            rejection=self.stream.rejection,
            num_accepted=max(0, verdict.num_accepted - num_known),
            logprobs=verdict.logprobs and verdict.logprobs[num_known:],
        )
        if verdict.finish_reason:
            self._answer(told)
        else:
            self._inbox.put_nowait(told)
            self._draft_on()

    def _draft_on(self) -> None:
        """By what the server has just said."""
        if self.drafts:
            with self.drafting():
                self.flush()
                self._on_change()

    def _measure(self, verdict: Verdict) -> None:
        """The round trip: what the edge waited less what the server says it took (no clocks)."""
        num_drafted = verdict.edge_drafts.num_drafted
        end = verdict.position + num_drafted
        sent_s = None
        while self._sent and self._sent[0][0] < end:
            _, sent_s = self._sent.popleft()
        if sent_s is not None and num_drafted:
            waited_s = time.monotonic() - sent_s
            self._metrics.round_trip_s.observe(max(0.0, waited_s - verdict.server_time_s))

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._on_end()
            self.stream.finish()
            self._metrics.drafted.inc(self.stream.num_drafted)
            self._metrics.accepted.inc(self.stream.num_accepted)
            waste = self.stream.waste
            self._metrics.wasted.inc(waste.num_tokens)
            self._metrics.forked.inc(self.stream.num_forked)
            self._metrics.forked_wasted.inc(self.stream.num_forked_wasted)
            self._metrics.wasted_s.labels("blocking").inc(waste.blocking_s)
            self._metrics.wasted_s.labels("overlapped").inc(waste.overlapped_s)
