"""A user: asks, reads the answer to its end, thinks, and asks again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, Protocol

from benchmarks.load.score import Tally
from benchmarks.sim.workload import Conversation, Lengths, Workload
from wisp.core.slo import Slo
from wisp.errors import Overloaded, WispError

log = logging.getLogger(__name__)
_RETRY_S = 1.0


@dataclass
class Ask:
    """One request: `num_done` tokens of the answer are known already."""

    prompt: list[int]
    num_output: int
    num_done: int
    number: int
    num_before: int = 0  # of the prompt, what its conversation said before; 0: it begins one

    def known(self, vocab_size: int) -> list[int]:
        """Of the answer: the prompt's chain goes on."""
        return chain(self.prompt[-1] + 1, self.num_done, vocab_size)


class Came(NamedTuple):
    num_tokens: int
    at_s: float
    num_wrong: int = 0


class Connection(Protocol):
    """How a user's requests reach the server."""

    def answer(self, ask: Ask, slo: Slo) -> AsyncGenerator[Came, None]:
        """Raises Overloaded when it is refused, other WispErrors when it fails."""


class Bell:
    """Wakes users that were refused and told to wait, when the load changes."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()
        self._rung = asyncio.Event()

    async def wait(self, most_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._rung.wait()


class User:
    def __init__(
        self,
        number: int,
        connection: Connection,
        *,
        workload: Workload,
        slo: Slo,
        vocab_size: int,
        tally: Tally,
        bell: Bell,
        seed: int,
    ) -> None:
        self._connection = connection
        self._workload = workload
        self._slo = slo
        self._vocab_size = vocab_size
        self._tally = tally
        self._bell = bell
        self._chance = Random(f"asks {seed} {number}")  # the same whatever the server does
        self._num_asked = 0
        self._conversation = Conversation(workload)
        self._said: list[int] = []

    async def run(self, wait_s: float) -> None:
        """For ever. The first answer is already half-way, as a user met at any moment is."""
        await asyncio.sleep(wait_s)
        ask = self._draw(self._workload.output.met())
        ask.num_done = int(self._chance.random() * ask.num_output)
        while True:
            await self._read(ask)
            await asyncio.sleep(self._workload.think(self._chance))
            ask = self._draw(self._workload.output)

    def _draw(self, output: Lengths) -> Ask:
        num_prompt = self._workload.prompt.draw(self._chance)
        start = self._chance.randrange(self._vocab_size)
        num_output = output.draw(self._chance)
        num_before = self._conversation.turn(num_prompt, num_output, self._chance)
        self._num_asked += 1
        prompt = self._said[:num_before] + chain(start, num_prompt, self._vocab_size)
        self._said = prompt + chain(prompt[-1] + 1, num_output, self._vocab_size)
        return Ask(prompt, num_output, 0, self._num_asked, num_before)

    async def _read(self, ask: Ask) -> None:
        watched = self._tally.opened(self._slo, time.monotonic(), returns=ask.num_before > 0)
        try:
            while ask.num_done < ask.num_output:
                try:
                    async with aclosing(self._connection.answer(ask, self._slo)) as answer:
                        async for came in answer:
                            ask.num_done += came.num_tokens
                            self._tally.tokens(watched, came.num_tokens, came.at_s)
                            self._tally.stats.num_wrong += came.num_wrong
                except Overloaded as error:
                    self._tally.stats.num_refused += 1
                    await self._bell.wait(error.retry_after_s)
                except WispError as error:
                    self._tally.stats.num_errors += 1
                    log.warning("a request failed: %s", error)
                    await asyncio.sleep(_RETRY_S)
        finally:
            self._tally.ended(watched, time.monotonic())


def chain(start: int, count: int, vocab_size: int) -> list[int]:
    """The predictable target's text (`benchmarks.load.target`)."""
    return [token % vocab_size for token in range(start, start + count)]
