"""All answers of one request: to one prompt or to several, one or more to each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from wisp.core.request import FinishReason, Request
from wisp.openai.backend import Backend
from wisp.openai.completion import Completion
from wisp.openai.fields import Json
from wisp.openai.scoring import score_prompt
from wisp.openai.siblings import Siblings
from wisp.openai.text import Answer, Delta, Entry

# Generations of one request at a time; the others wait for these. Chosen: as many as answers to one
# prompt can be asked for, and half the sessions that a server has by default.
_MAX_AT_ONCE = 16


@dataclass(kw_only=True)
class Answers:
    """Iterate (index, delta); each answer's last delta has its finish_reason.

    Leaving the iteration frees all sessions.
    """

    backend: Backend
    requests: Sequence[Request]  # those to the same prompt stand side by side
    stops: Sequence[str]
    num_each: int = 1  # answers to each prompt
    echo: bool = False  # each answer begins with its prompt
    completions: dict[int, Completion] = field(default_factory=dict)

    async def __aiter__(self) -> AsyncGenerator[tuple[int, Delta], None]:
        if len(self.requests) == 1:
            async with contextlib.aclosing(self._one(0)) as deltas:
                async for delta in deltas:
                    yield 0, delta
            return
        # Whoever does not read one of them reads none.
        queue: asyncio.Queue[tuple[int, Delta | Exception]] = asyncio.Queue(_MAX_AT_ONCE)
        siblings = Siblings(self.backend, _MAX_AT_ONCE)
        indices = iter(range(len(self.requests)))
        count = min(_MAX_AT_ONCE, len(self.requests))
        tasks = [
            asyncio.create_task(self._run_each(indices, siblings, queue)) for _ in range(count)
        ]
        try:
            num_running = len(self.requests)
            while num_running:
                index, item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                num_running -= item.finish_reason is not None
                yield index, item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def usage(self) -> Json:
        """OpenAI's counts of all answers so far; those of one prompt share its tokens."""
        num_prompt = sum(len(r.prompt) for r in self.requests[:: self.num_each])
        num_tokens = sum(answer.num_tokens for answer in self.completions.values())
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_tokens,
            "total_tokens": num_prompt + num_tokens,
        }

    def full_usage(self) -> Json:
        """With WISP's own counts under the key `wisp`: of each answer, if there are several."""
        told = [completion.wisp_usage() for _, completion in sorted(self.completions.items())]
        if len(self.requests) == 1 and told:
            return self.usage() | {"wisp": told[0]}
        return self.usage() | {"wisp": {"answers": told}}

    async def _run_each(
        self,
        indices: Iterator[int],
        siblings: Siblings,
        queue: asyncio.Queue[tuple[int, Delta | Exception]],
    ) -> None:
        """One after another, of those that nobody else has taken."""
        for index in indices:
            try:
                async with contextlib.aclosing(self._one(index, siblings)) as deltas:
                    async for delta in deltas:
                        await queue.put((index, delta))
            except Exception as error:
                await queue.put((index, error))
                return

    async def _one(
        self, index: int, siblings: Siblings | None = None
    ) -> AsyncGenerator[Delta, None]:
        request, offset = self.requests[index], 0
        if self.echo:
            delta = await self._echoed(request)
            yield delta
            if delta.finish_reason is not None:
                return
            offset = len(delta.text)
        opening = siblings.open(request) if siblings else self.backend.generate(request)
        generation = await opening  # which checks the prompt, before anything is made of it
        try:
            tokenizer = self.backend.tokenizer
            answer = Answer(tokenizer, request.sampling, self.stops, request.prompt, offset)
        except BaseException:
            await generation.aclose()
            raise
        async with Completion(generation, request, answer) as completion:
            self.completions[index] = completion
            async for delta in completion:
                yield delta

    async def _echoed(self, request: Request) -> Delta:
        """The prompt, with the logprobs of its tokens where they are asked for."""
        sampling, is_all = request.sampling, request.sampling.max_tokens == 0
        least = structs.replace(request, sampling=structs.replace(sampling, max_tokens=1))
        (await self.backend.model()).check(least)
        text = self.backend.tokenizer.decode(request.prompt)
        entries: list[Entry] = []
        if sampling.num_logprobs is not None:
            entries = await score_prompt(self.backend, request, sampling.num_logprobs)
        return Delta(
            text=text,
            segments=[(text, False)],
            num_tokens=0,
            num_accepted=0,
            logprobs=entries,
            finish_reason=FinishReason.LENGTH if is_all else None,
        )
