"""How long a step takes as plain clients see it: the time between two tokens of all of them.

Each client sends a prompt of its own, and all are answered at once. What counts is from where the
last of them has its first tokens until the first of them is done: meanwhile every step has all.
"""

from __future__ import annotations

import asyncio
import statistics
from itertools import pairwise
from random import Random

import httpx

from benchmarks.load.campaign import FIRST_TOKEN_S
from benchmarks.load.fleet import Row
from benchmarks.load.http import HttpClient, client
from benchmarks.load.users import Ask
from wisp.config import TINY
from wisp.core.slo import Slo
from wisp.errors import Unavailable
from wisp.models.tokenizer import Tokenizer

PROMPT_TOKENS = 512  # as in `benchmarks.vllm_steps`
ANSWER_TOKENS = 160  # chosen: prompts are computed one after another, so the first answers wait
# The least that is promised in the suite, so that nobody is refused. All are in every step even if
# they are ahead of it: a plain token costs a step hardly anything.
_SLO = Slo(tokens_per_s=8.0, first_token_s=FIRST_TOKEN_S)
_COLUMNS = ("between_mean_ms", "between_p50_ms", "between_p90_ms", "counted")


def steps(url: str, number: int, *, vocab_size: int, seed: int) -> Row:
    """One row, in milliseconds. Raises Unavailable."""
    return asyncio.run(_steps(url, number, vocab_size, Random(seed)))


async def _steps(url: str, number: int, vocab_size: int, chance: Random) -> Row:
    async with client(url) as http:
        model = (await http.get("/v1/models")).json()["data"][0]

        async def arrivals(num_output: int) -> list[float]:
            prompt = prompt_of(chance, vocab_size)
            connection = HttpClient(http, model, vocab_size, 0.0)
            came: list[float] = []
            async for each in connection.answer(Ask(prompt, num_output, 0, 0), _SLO):
                came += [each.at_s] * each.num_tokens
            return came

        try:
            await asyncio.gather(*(arrivals(8) for _ in range(number)))  # what is done once
            texts = await asyncio.gather(*(arrivals(ANSWER_TOKENS) for _ in range(number)))
        except httpx.HTTPError as error:
            raise Unavailable(f"no answer: {error!r}") from error
    return {"clients": number, "prompt_tokens": PROMPT_TOKENS} | between(texts)


def prompt_of(chance: Random, vocab_size: int) -> list[int]:
    """Whose answer the tokenizer beside the target has a text for, token by token: wisp-server
    sends what there is to read. Its first tokens are single bytes, and parts of letters."""
    known = len(Tokenizer(TINY / "target").token_ids())
    last = chance.randrange(known // 2, known - ANSWER_TOKENS)
    return [*(chance.randrange(vocab_size) for _ in range(PROMPT_TOKENS - 1)), last]


def between(texts: list[list[float]]) -> Row:
    """Of the times at which the tokens of each came; None if hardly any step had all."""
    begin_s, end_s = max(text[0] for text in texts), min(text[-1] for text in texts)
    times_ms: list[float] = []
    means_ms: list[float] = []
    for text in texts:
        inside = [at_s for at_s in text if begin_s <= at_s <= end_s]
        if len(inside) < 3:
            return dict.fromkeys(_COLUMNS[:-1]) | {_COLUMNS[-1]: 0}
        times_ms += [1e3 * (b - a) for a, b in pairwise(inside)]
        means_ms.append(1e3 * (inside[-1] - inside[0]) / (len(inside) - 1))
    found = (
        round(statistics.fmean(means_ms), 2),
        round(statistics.median(times_ms), 2),
        round(statistics.quantiles(times_ms, n=10)[-1], 2),
        len(times_ms),
    )
    return dict(zip(_COLUMNS, found, strict=True))
