"""One answer of a backend, as deltas."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from wisp.core.drafts import DraftCounts, Rejection, Source
from wisp.core.request import Request
from wisp.errors import InternalError
from wisp.openai.backend import Generation
from wisp.openai.fields import Json
from wisp.openai.text import Answer, Delta


class Completion:
    """An async iterator of deltas; leaving its context frees the session, however it is left.

    At a stop string it frees the session before it gives out the last delta.
    """

    def __init__(self, generation: Generation, request: Request, answer: Answer) -> None:
        self._generation = generation
        self._verdicts = aiter(generation)
        self._request = request
        self._answer = answer
        self._finished = False
        self._closed = False
        self._stats: dict[str, float] = {}

    def __aiter__(self) -> Completion:
        return self

    async def __anext__(self) -> Delta:
        while not self._finished:
            try:
                verdict = await anext(self._verdicts)
            except StopAsyncIteration:
                raise InternalError("The generation ended without a reason.") from None
            delta = self._answer.add(verdict)
            if delta is None:
                continue
            if delta.finish_reason is not None:
                self._finished = True
                self._stats = self._generation.stats()
                await self.aclose()
            return delta
        raise StopAsyncIteration

    async def __aenter__(self) -> Completion:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._generation.aclose()

    @property
    def num_tokens(self) -> int:
        """Of the answer, so far."""
        return self._answer.counts.num_tokens

    def wisp_usage(self) -> Json:
        """WISP's own counts, of the whole answer."""
        counts = self._answer.counts
        steps, alone_s = counts.num_steps, counts.alone_time_s
        return {
            "seed": self._request.sampling.seed,
            "steps": steps,
            **_draft_usage(counts.drafts),
            **_rejection_usage(counts.rejections),
            "tokens_per_step": counts.num_tokens / steps if steps else None,
            "mean_step_s": counts.step_time_s / steps if steps else None,
            "interference": counts.step_time_s / alone_s if alone_s else None,
            **self._generation.attainment.usage(),
            **self._stats,
        }


def _draft_usage(drafts: dict[Source, DraftCounts]) -> dict[str, Any]:
    """An edge's drafts under plain names, those of other sources under theirs."""
    edge = drafts[Source.EDGE]
    usage: dict[str, Any] = {
        "acceptance": edge.num_accepted / edge.num_drafted if edge.num_drafted else None
    }
    for source, counts in drafts.items():
        if source is Source.OWN and not counts.num_drafted:
            continue  # few servers have a drafter
        prefix = "" if source is Source.EDGE else f"{source}_"
        usage[f"{prefix}drafted_tokens"] = counts.num_drafted
        usage[f"{prefix}accepted_tokens"] = counts.num_accepted
    return usage


def _rejection_usage(rejections: dict[Rejection, int]) -> dict[str, int]:
    seamless = rejections[Rejection.SEAMLESS]
    return {
        "rejections": sum(rejections.values()),
        "covered_rejections": rejections[Rejection.COVERED] + seamless,
        "avoided_stalls": seamless,
    }
