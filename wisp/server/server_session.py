"""One generation as both fronts see it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

from wisp.access.quota import Usage
from wisp.core.drafts import DraftBlock, Verdict
from wisp.core.request import check_tokens
from wisp.core.slo import Attainment
from wisp.engine.client_session import EngineSession
from wisp.errors import InternalError, Overloaded, ProtocolError, Unavailable, WispError
from wisp.server.telemetry import SessionRecord, Telemetry
from wisp.tracing import Spans

# How many times the largest window of draft tokens may arrive for each verdict. Chosen: an honest
# edge fills its window once for a verdict, once more when the stream was lost, and its forks hold
# about as much again.
_MAX_WINDOWS = 8
# What ends a session through no fault of whoever asked.
_NOT_THEIRS = (Overloaded, Unavailable, InternalError)


class ServerSession:
    """A generation in the engine. Iterate its verdicts; `close` frees it on every way out."""

    def __init__(
        self,
        session: EngineSession,
        record: SessionRecord,
        telemetry: Telemetry,
        *,
        vocab_size: int,
        max_window: int,
        usage: Usage,
        num_prompt: int,
        on_close: Callable[[ServerSession], None] = lambda session: None,
    ) -> None:
        self._session = session
        self._record = record
        self._telemetry = telemetry
        self._vocab_size = vocab_size
        self._max_window = max_window
        self._usage = usage
        self._num_prompt = num_prompt
        self._on_close = on_close
        self._num_allowed = _MAX_WINDOWS * max_window
        self._spans = Spans.current()
        self._opening_s: float | None = time.monotonic()  # None: its first token has come

    @property
    def attainment(self) -> Attainment:
        return self._record.attainment

    async def __aiter__(self) -> AsyncIterator[Verdict]:
        try:
            async for verdict in self._session:
                self._telemetry.took(self._record, verdict)
                self._usage.used(len(verdict.tokens))
                if self._spans:
                    self._trace(self._spans, verdict)
                self._num_allowed += _MAX_WINDOWS * self._max_window
                yield verdict
        except WispError as error:
            self._telemetry.failed(self._record, error)
            if isinstance(error, _NOT_THEIRS) and not self._record.attainment.num_tokens:
                self._usage.refund(self._num_prompt)  # it was refused: that costs nothing
            raise

    def _trace(self, spans: Spans, verdict: Verdict) -> None:
        """The step that verified it, and the way from there; the prompt, before the first."""
        committed_s = verdict.committed_s
        if self._opening_s is not None:
            spans.add("prefill", self._opening_s, committed_s, prompt=self._num_prompt)
            self._opening_s = None
        spans.add(
            "verify",
            committed_s - verdict.step_time_s,
            committed_s,
            position=verdict.position,
            committed=len(verdict.tokens),
            drafted=verdict.num_drafted,
            accepted=verdict.num_accepted,
            source=verdict.source.value,
        )
        spans.add("verdict", committed_s, time.monotonic(), position=verdict.position)

    def draft(self, block: DraftBlock) -> None:
        """Raises ProtocolError on a token outside the vocabulary, and on a flood of drafts.

        An edge has a window to fill, and may begin it anew with every verdict. What goes beyond
        that many times over would only fill the engine's inbox, which has no bound of its own.
        """
        for each in (block, *block.forks):
            check_tokens(each.tokens, self._vocab_size, "draft", ProtocolError)
        self._num_allowed -= size(block, self._max_window)
        if self._num_allowed < 0:
            raise ProtocolError(
                "more drafts came than verdicts can answer: keep to the window of the last "
                "directive"
            )
        self._record.num_arrived += block.num_tokens
        self._session.draft(block)

    def fail(self, error: WispError) -> None:
        """End the session with an error that its front found; nobody else is touched."""
        self._session.fail(error)

    def close(self) -> None:
        self._session.close()
        self._telemetry.closed(self._record)
        self._on_close(self)

    async def aclose(self) -> None:
        self.close()

    def stats(self) -> dict[str, float]:
        return {}


def size(block: DraftBlock, max_window: int) -> int:
    """Of a message in draft tokens, at least 1; one with nothing but forks is as large as these."""
    # A longer block is an error of its own, which the engine finds.
    in_forks = sum(max(1, len(fork.tokens)) for fork in block.forks)
    return max(1, min(len(block.tokens), max_window) + in_forks)
