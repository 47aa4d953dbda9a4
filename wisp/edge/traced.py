"""The spans of one generation on an edge: how it was opened, and each of its rounds."""

from __future__ import annotations

from wisp.core.drafts import Verdict
from wisp.tracing import Spans


class TracedGeneration:
    """A round begins with the verdict before it, and is told with its own."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._since_s = 0.0
        self._drafting_s: tuple[float, float] | None = None  # from, until: since the last verdict
        self._num_steps = 0

    def opens(self, now: float) -> None:
        """A stream, the first one or a resumed one."""
        self._since_s = now

    def opened(self, now: float) -> None:
        self._spans.add("open", self._since_s, now)
        self._since_s = now

    def drafted(self, begun_s: float, now: float) -> None:
        """One step of the drafter."""
        self._drafting_s = (self._drafting_s or (begun_s, now))[0], now
        self._num_steps += 1

    def took(self, verdict: Verdict, now: float) -> None:
        drafts = verdict.edge_drafts
        below = self._spans.add(
            "round",
            self._since_s,
            now,
            position=verdict.position,
            committed=len(verdict.tokens),
            drafted=drafts.num_drafted,
            accepted=drafts.num_accepted,
            server_time_s=verdict.server_time_s,
        )
        if self._drafting_s:
            begun_s, ended_s = self._drafting_s
            below.add("draft", max(begun_s, self._since_s), ended_s, steps=self._num_steps)
        self._since_s, self._drafting_s, self._num_steps = now, None, 0
