"""Edges ask, faults come by chance from one seed, and a judge knows every text in advance."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from benchmarks.faults.chaos import Chaos
from benchmarks.faults.fleet import Fleet
from wisp.core.request import Request, Sampling
from wisp.errors import Forbidden, HandshakeError, Overloaded, Shed, Unavailable, WispError
from wisp.openai.backend import Generation
from wisp.padding import Padding
from wisp.testing.local import LocalEdge, expected_text

NUM_USERS = 2  # of each edge, who ask again and again
# As docs/operating.md advises.
PADDING = Padding(message_bytes=512, interval_s=0.05)


@dataclass
class Outcome:
    """What came of all requests. `faults` counts what was done, by its name."""

    num_tokens: int = 0
    num_requests: int = 0
    num_whole: int = 0  # the whole text, and it is the target's
    num_cancelled: int = 0  # by whoever asked
    num_refused: int = 0  # before any text, by a sentence
    num_ended: int = 0  # with an error that is right: a revoked key, a lost server without an edge
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    num_resumes: int = 0
    seconds: float = 0.0  # of virtual time

    @property
    def clean(self) -> bool:
        return not (self.wrong or self.lost or self.doubled or self.leftovers)


class Campaign:
    """`padding`: of every fourth edge."""

    def __init__(self, seed: int, num_tokens: int, padding: Padding | None = PADDING) -> None:
        self.outcome = Outcome()
        self._rng = Random(seed)
        self._num_tokens = num_tokens
        self._padding = padding

    async def run(self) -> Outcome:
        random.seed(self._rng.random())  # the edges' back-off, too
        start_s = asyncio.get_running_loop().time()
        with tempfile.TemporaryDirectory(prefix="wisp-faults-") as folder:
            self._fleet = Fleet(Path(folder), self._rng, self._padding)
            self._fleet.start()
            chaos = Chaos(self._fleet, self._rng)
            self.outcome.faults = chaos.faults
            users = [
                asyncio.create_task(self._user(edge, Random(self._rng.random())))
                for edge in self._fleet.edges
                for _ in range(NUM_USERS)
            ]
            users.append(asyncio.create_task(self._user_without_edge(Random(self._rng.random()))))
            happening = asyncio.create_task(chaos.run())
            try:
                await asyncio.gather(*users)
            finally:
                self._fleet.disk.clear()
            if happening.done():
                happening.result()  # it ends by itself with an error alone
            happening.cancel()
            await asyncio.wait([happening])
            self.outcome.leftovers = await self._fleet.stop()
        self.outcome.seconds = asyncio.get_running_loop().time() - start_s
        return self.outcome

    # Those who ask.
    async def _user(self, edge: LocalEdge, rng: Random) -> None:
        while self.outcome.num_tokens < self._num_tokens:
            request = self._request(edge.seed, rng)
            self.outcome.num_requests += 1
            try:
                generation = await edge.backend.generate(request)
            except (Unavailable, HandshakeError):
                self.outcome.num_refused += 1  # nothing was begun
                await asyncio.sleep(rng.uniform(0.1, 1.0))
                continue
            limit = rng.randint(1, request.sampling.max_tokens) if rng.random() < 0.1 else None
            await self._read(generation, request, rng, limit, has_edge=True)
            self.outcome.num_resumes += round(generation.stats()["reconnects"])
            if rng.random() < 0.3:
                await asyncio.sleep(rng.uniform(0.0, 2.0))

    async def _user_without_edge(self, rng: Random) -> None:
        """Of a server's own HTTP port: nobody can resume it."""
        while self.outcome.num_tokens < self._num_tokens:
            await asyncio.sleep(rng.uniform(0.01, 0.5))
            server = self._fleet.servers.get(rng.choice(self._fleet.replicas))
            if server is None:
                continue
            request = self._request(rng.randrange(1000), rng)
            self.outcome.num_requests += 1
            try:
                generation = await server.service.generate(request)
            except (Unavailable, Overloaded):
                self.outcome.num_refused += 1
                continue
            await self._read(generation, request, rng, None, has_edge=False)

    async def _read(
        self,
        generation: Generation,
        request: Request,
        rng: Random,
        limit: int | None,
        *,
        has_edge: bool,
    ) -> None:
        """Judge it: exactly one end, and the target's own text up to there."""
        expected = expected_text(request.prompt, request.sampling)
        slow = rng.random() < 0.05
        name = f"prompt {request.prompt} seed {request.sampling.seed} of {len(expected)}"
        tokens: list[int] = []
        finished = False
        error: WispError | None = None
        try:
            async for verdict in generation:
                if finished:
                    self.outcome.doubled.append(name)
                tokens += verdict.tokens
                finished = verdict.finish_reason is not None
                if slow:
                    await asyncio.sleep(40.0 if rng.random() < 0.005 else rng.expovariate(20.0))
                if limit is not None and len(tokens) >= limit and not finished:
                    break
        except WispError as failure:
            error = failure
            if finished:
                self.outcome.doubled.append(name)
        await generation.aclose()
        self.outcome.num_tokens += len(tokens)
        if tokens != expected[: len(tokens)] or len(tokens) > len(expected):
            self.outcome.wrong.append(name)
        elif error is None and finished and len(tokens) == len(expected):
            self.outcome.num_whole += 1
        elif error is None and limit is not None and not finished:
            self.outcome.num_cancelled += 1
        elif not tokens and isinstance(error, Overloaded | HandshakeError):
            self.outcome.num_refused += 1
        elif isinstance(error, Forbidden) or (
            not has_edge and isinstance(error, Unavailable | Shed | Overloaded)
        ):
            self.outcome.num_ended += 1
        else:
            self.outcome.lost.append(f"{name}: {len(tokens)} tokens, then {error!r}")

    def _request(self, seed: int, rng: Random) -> Request:
        return Request(
            prompt=[rng.randrange(4000) for _ in range(rng.randint(1, 40))],
            sampling=Sampling(max_tokens=rng.choice([1, 10, 100, 200, 400]), seed=seed),
            speculation=rng.random() < 0.9,
            slo=rng.choice([None, "batch"]),
        )
