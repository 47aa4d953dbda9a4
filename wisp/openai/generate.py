"""One answer while it is made: owns the generation and closes it exactly once."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from wisp.core.drafts import DraftCounts, Source
from wisp.errors import InternalError
from wisp.openai.backend import Backend, Generation, GenerationRequest
from wisp.openai.text import Answer, Delta


class Completion:
    """An async iterator of deltas; leaving its context frees the session, however it is left.

    At a stop string it frees the session before it gives out the last delta.
    """

    def __init__(self, generation: Generation, request: GenerationRequest, answer: Answer) -> None:
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

    def usage(self) -> dict[str, Any]:
        """OpenAI's counts, and WISP's own under the key `wisp`."""
        counts = self._answer.counts
        num_prompt = len(self._request.prompt)
        steps, alone_s = counts.num_steps, counts.alone_time_s
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": counts.num_tokens,
            "total_tokens": num_prompt + counts.num_tokens,
            "wisp": {
                "seed": self._request.sampling.seed,
                "steps": steps,
                **_draft_usage(counts.drafts),
                "tokens_per_step": counts.num_tokens / steps if steps else None,
                "mean_step_s": counts.step_time_s / steps if steps else None,
                "interference": counts.step_time_s / alone_s if alone_s else None,
                **self._generation.attainment.usage(),
                **self._stats,
            },
        }


def _draft_usage(drafts: dict[Source, DraftCounts]) -> dict[str, Any]:
    """An edge's drafts under plain names, those of other sources under theirs."""
    edge = drafts[Source.EDGE]
    usage: dict[str, Any] = {
        "acceptance": edge.num_accepted / edge.num_drafted if edge.num_drafted else None
    }
    for source, counts in drafts.items():
        prefix = "" if source is Source.EDGE else f"{source}_"
        usage[f"{prefix}drafted_tokens"] = counts.num_drafted
        usage[f"{prefix}accepted_tokens"] = counts.num_accepted
    return usage


async def start(backend: Backend, request: GenerationRequest, stops: list[str]) -> Completion:
    """Raises what the backend raises; afterwards the completion must be closed."""
    answer = Answer(backend.tokenizer, request.sampling, stops)
    return Completion(await backend.generate(request), request, answer)
