"""The log-probabilities of a prompt's tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import structs

from wisp.core.drafts import TokenLogprob
from wisp.core.request import Request, Sampling
from wisp.errors import InternalError
from wisp.models.detokenizer import Detokenizer
from wisp.models.tokenizer import Tokenizer
from wisp.openai.backend import Backend
from wisp.openai.siblings import Siblings
from wisp.openai.text import Entry

# Tokens of a prompt that are scored at a time. Chosen: some requests at once, as evaluations send
# them, leave half the sessions that a server has by default to others.
_MAX_SCORED_AT_ONCE = 4
# What makes a token certain, by its range in OpenAI's API (wisp.core.request).
_CERTAIN = 100.0


async def score_prompt(backend: Backend, request: Request, num_logprobs: int) -> list[Entry]:
    """Each token of the prompt as the target's choice behind those before it.

    A generation of one token for each, which is made certain: its logprob is the target's own,
    from before anything is added to it. The server's prefix cache makes them cheap.
    """
    prompt, tokenizer = request.prompt, backend.tokenizer
    siblings = Siblings(backend, _MAX_SCORED_AT_ONCE)
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
