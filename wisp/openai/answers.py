"""All answers of one request: to one prompt or to several, one or more to each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from wisp.core.drafts import TokenLogprob
from wisp.core.request import FinishReason, Request, Sampling
from wisp.errors import InternalError
from wisp.models.detokenizer import Detokenizer
from wisp.models.tokenizer import Tokenizer
from wisp.openai.backend import Backend
from wisp.openai.completion import Completion
from wisp.openai.fields import Json
from wisp.openai.siblings import Siblings
from wisp.openai.text import Answer, Delta, Entry

# Generations of one request at a time; the others wait for these. Chosen: as many as answers to one
# prompt can be asked for, and half the sessions that a server has by default.
_MAX_AT_ONCE = 16
# Tokens of a prompt that are scored at a time. Chosen: some requests at once, as evaluations send
# them, leave half the sessions that a server has by default to others.
_MAX_SCORED_AT_ONCE = 4
# What makes a token certain, by its range in OpenAI's API (wisp.core.request).
_CERTAIN = 100.0


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
            entries = await self._scored(request, sampling.num_logprobs)
        return Delta(
            text=text,
            segments=[(text, False)],
            num_tokens=0,
            num_accepted=0,
            logprobs=entries,
            finish_reason=FinishReason.LENGTH if is_all else None,
        )

    async def _scored(self, request: Request, num_logprobs: int) -> list[Entry]:
        """Each token of the prompt as the target's choice behind those before it.

        A generation of one token for each, which is made certain: its logprob is the target's own,
        from before anything is added to it. The server's prefix cache makes them cheap.
        """
        prompt, tokenizer = request.prompt, self.backend.tokenizer
        siblings = Siblings(self.backend, _MAX_SCORED_AT_ONCE)
        offsets = await asyncio.to_thread(_offsets, prompt, tokenizer)
        scores: dict[int, TokenLogprob] = {}
        positions = iter(range(1, len(prompt)))

        async def score(position: int) -> TokenLogprob:
            token = prompt[position]
            sampling = Sampling(
                max_tokens=1,
                seed=0,
                temperature=0.0,
                logit_bias={token: _CERTAIN},
                num_logprobs=num_logprobs,
            )
            asked = structs.replace(
                request, prompt=prompt[:position], sampling=sampling, speculation=False
            )
            generation = await siblings.open(asked)
            try:
                async for verdict in generation:
                    if verdict.logprobs and verdict.tokens == [token]:
                        return verdict.logprobs[0]
            finally:
                await generation.aclose()
            raise InternalError("the target could not be made to score the prompt")

        async def score_each() -> None:
            for position in positions:
                scores[position] = await score(position)

        # Each has what comes before its token in memory: not all of them at once.
        tasks = [asyncio.create_task(score_each()) for _ in range(_MAX_SCORED_AT_ONCE)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return [Entry(token, offsets[at], scores.get(at)) for at, token in enumerate(prompt)]


def _offsets(prompt: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """Where the text of each token begins."""
    detokenizer, num_chars, found = Detokenizer(tokenizer), 0, []
    for token in prompt:
        found.append(num_chars)
        num_chars += len(detokenizer.add([token]))
    return found
