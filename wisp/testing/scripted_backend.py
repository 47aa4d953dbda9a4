"""The test double: a backend whose verdicts are written down in advance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from wisp.core.card import ModelCard
from wisp.core.drafts import REST, TokenLogprob, Verdict
from wisp.core.request import FinishReason, Request, Sampling
from wisp.core.slo import Attainment, Slo
from wisp.errors import InternalError, WispError
from wisp.models.tokenizer import Tokenizer


@dataclass(kw_only=True)
class Script:
    """What the next generations do. Step i commits accepted[i] + 1 tokens, 1 past the list's end.

    The tokens end with the limit, with a stop token of the request, or with the script: then the
    model's end token is added.
    """

    tokens: Sequence[int] = ()
    accepted: Sequence[int] = ()
    drafted: Sequence[int] = ()  # as accepted where it is shorter
    open_error: WispError | None = None
    error: WispError | None = None  # raised after `error_after` steps
    error_after: int = 0
    hang_after: int | None = None  # after so many steps nothing comes until it is closed
    stats: dict[str, float] = field(default_factory=dict)


class ScriptedGeneration:
    def __init__(self, script: Script, request: Request, eos: int) -> None:
        self.request = request
        self.num_closes = 0
        self.hanging = asyncio.Event()
        self.closed = asyncio.Event()
        self._script = script
        self._steps = _steps(script, request, eos)
        slo = request.slo
        if not isinstance(slo, Slo):
            slo = Slo(tokens_per_s=10.0, first_token_s=2.0, name=slo or "default")
        self.attainment = Attainment(slo, 0.0)

    async def __aiter__(self) -> AsyncIterator[Verdict]:
        for index, verdict in enumerate(self._steps):
            await self._before_step(index)
            self.attainment.add(len(verdict.tokens), verdict.committed_s)
            yield verdict
        await self._before_step(len(self._steps))

    async def _before_step(self, index: int) -> None:
        await asyncio.sleep(0)
        if self.closed.is_set():
            raise InternalError("The generation was read after it was closed.")
        if self._script.error is not None and index == self._script.error_after:
            raise self._script.error
        if index == self._script.hang_after:
            self.hanging.set()
            await self.closed.wait()

    async def aclose(self) -> None:
        self.num_closes += 1
        self.closed.set()

    def stats(self) -> dict[str, float]:
        return dict(self._script.stats)


class ScriptedBackend:
    """Serves `script`, which may be replaced between requests, and keeps all generations."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        script: Script | None = None,
        *,
        card: ModelCard | None = None,
        eos: int = 0,
    ) -> None:
        self.tokenizer = tokenizer
        self.script = script or Script()
        self.card = card or ModelCard(
            id="scripted",
            created=0,
            max_model_len=4096,
            vocab_size=len(tokenizer),
            eos_token_ids=(eos,),
        )
        self.unhealthy: str | None = None
        self.model_error: WispError | None = None
        self.generations: list[ScriptedGeneration] = []
        self.opened: asyncio.Queue[ScriptedGeneration] = asyncio.Queue()

    async def model(self) -> ModelCard:
        if self.model_error is not None:
            raise self.model_error
        return self.card

    async def generate(self, request: Request) -> ScriptedGeneration:
        await asyncio.sleep(0)
        self.card.check(request)
        if self.script.open_error is not None:
            raise self.script.open_error
        generation = ScriptedGeneration(self.script, request, self.card.eos_token_ids[0])
        self.generations.append(generation)
        self.opened.put_nowait(generation)
        return generation

    async def health(self) -> str | None:
        return self.unhealthy


def _steps(script: Script, request: Request, eos: int) -> list[Verdict]:
    tokens, reason = _ended([*script.tokens, eos], request.sampling)
    verdicts: list[Verdict] = []
    start = 0
    while start < len(tokens):
        index = len(verdicts)
        planned = script.accepted[index] if index < len(script.accepted) else 0
        part = tokens[start : start + planned + 1]
        accepted = min(planned, len(part))
        last = start + len(part) == len(tokens)
        verdicts.append(
            Verdict(
                position=len(request.prompt) + start,
                tokens=part,
                num_drafted=script.drafted[index] if index < len(script.drafted) else accepted,
                num_accepted=accepted,
                directive=REST,
                finish_reason=reason if last else None,
                logprobs=_logprobs(part, request.sampling.num_logprobs),
            )
        )
        start += len(part)
    return verdicts


def _ended(tokens: list[int], sampling: Sampling) -> tuple[list[int], FinishReason]:
    for index, token in enumerate(tokens):
        if token in sampling.stop_token_ids:
            return tokens[: index + 1], FinishReason.STOP
        if index + 1 == sampling.max_tokens:
            return tokens[: index + 1], FinishReason.LENGTH
    return tokens, FinishReason.STOP


def _logprobs(tokens: list[int], num: int | None) -> list[TokenLogprob] | None:
    """Made up, but a different one for every token."""
    if num is None:
        return None
    return [
        TokenLogprob(
            logprob=-token / 1000,
            top=[(token + rank, -(token + rank) / 1000) for rank in range(num)],
        )
        for token in tokens
    ]
