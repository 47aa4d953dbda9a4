"""The sessions of one request: one that finds no room waits for another of them to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from wisp.core.drafts import Verdict
from wisp.core.request import Request
from wisp.core.slo import Attainment
from wisp.errors import InternalError, Overloaded, Shed
from wisp.openai.backend import Backend, Generation


class Siblings:
    """At most `limit` of them run at a time.

    A request is refused if there is no room for its first session. From then on it has some.
    """

    def __init__(self, backend: Backend, limit: int) -> None:
        self._backend = backend
        self._limit = asyncio.Semaphore(limit)
        self._num_open = 0
        self._ended = asyncio.Event()

    async def open(self, request: Request) -> Sibling:
        """Once its first verdict has come. Raises what a generation raises."""
        await self._limit.acquire()
        try:
            generation, verdicts, first = await self._begun(request)
        except BaseException:
            self._limit.release()
            raise
        return Sibling(generation, verdicts, first, self)

    async def _begun(self, request: Request) -> tuple[Generation, AsyncIterator[Verdict], Verdict]:
        while True:
            self._ended.clear()
            self._num_open += 1
            try:
                generation = await self._backend.generate(request)
                verdicts = aiter(generation)
                try:
                    return generation, verdicts, await anext(verdicts)
                except BaseException:
                    await generation.aclose()
                    raise
            except StopAsyncIteration:
                raise InternalError("The generation ended without a reason.") from None
            except Overloaded as error:
                self._num_open -= 1
                if isinstance(error, Shed) or not self._num_open:
                    raise
            await self._ended.wait()

    def ended(self) -> None:
        self._num_open -= 1
        self._limit.release()
        self._ended.set()


class Sibling:
    """A generation that has begun."""

    def __init__(
        self,
        generation: Generation,
        verdicts: AsyncIterator[Verdict],
        first: Verdict,
        siblings: Siblings,
    ) -> None:
        self._generation, self._verdicts, self._first = generation, verdicts, first
        self._siblings = siblings
        self._closed = False

    @property
    def attainment(self) -> Attainment:
        return self._generation.attainment

    async def __aiter__(self) -> AsyncIterator[Verdict]:
        yield self._first
        async for verdict in self._verdicts:
            yield verdict

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._generation.aclose()
            self._siblings.ended()

    def stats(self) -> dict[str, float]:
        return self._generation.stats()
