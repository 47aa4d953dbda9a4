"""Edges ask, faults come by chance from one seed, and a judge knows every text in advance."""

from __future__ import annotations

import asyncio
import functools
import random
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from benchmarks.faults.network import LOST, Call, MemoryLink, Replica
from wisp.access.gate import Gate
from wisp.access.keys import KeyRecord, add, revoke
from wisp.config import EdgeConfig, EngineSettings, ServerConfig
from wisp.core.request import Request, Sampling
from wisp.edge.link import Link
from wisp.errors import Forbidden, HandshakeError, Overloaded, Shed, Unavailable, WispError
from wisp.openai.backend import Generation
from wisp.server.grpc_front import WispServicer
from wisp.testing.local import LocalEdge, LocalServer, expected_text

STEP_S = 0.01  # of the target; chosen: some 100 rounds a second, as a middle-sized GPU has
NUM_REPLICAS = 2
NUM_EDGES = 16
NUM_SLOTS = 6  # of each replica; chosen: fewer than its sessions, so that some are parked
NUM_USERS = 2  # of each edge, who ask again and again
WRITE_TIMEOUT_S = 30.0  # as wisp-server's
# A server whose engine hangs is started anew after this; chosen: short against the time that an
# edge looks for a server.
PATIENCE_S = 10.0
RECONNECT_S = 300.0  # chosen: no fault lasts so long, so that no text may be lost
MEAN_PAUSE_S = 0.15  # between two faults, in virtual time; chosen: most texts meet one


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
    def __init__(self, seed: int, num_tokens: int) -> None:
        self.outcome = Outcome()
        self._rng = Random(seed)
        self._num_tokens = num_tokens
        self._folder = tempfile.TemporaryDirectory(prefix="wisp-faults-")
        self._keys = Path(self._folder.name) / "keys.yaml"
        self._replicas = [Replica(f"replica {number}") for number in range(NUM_REPLICAS)]
        self._servers: dict[Replica, LocalServer] = {}
        self._gates: dict[Replica, Gate] = {}
        self._edges: list[LocalEdge] = []
        self._metadata: list[tuple[tuple[str, str], ...]] = []
        self._num_keys = 0
        self._ends = False

    async def run(self) -> Outcome:
        random.seed(self._rng.random())  # the edges' back-off, too
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        for number in range(NUM_EDGES):
            self._metadata.append(self._new_key())
            link: Link = MemoryLink(
                self._replicas,
                f"edge {number}",
                Random(self._rng.random()),
                functools.partial(self._metadata.__getitem__, number),
            )
            # Every fourth edge is a liar: its drafts are wrong, and it says that they are right.
            acceptance = 0.0 if number % 4 == 3 else self._rng.uniform(0.5, 0.95)
            config = EdgeConfig(reconnect_s=RECONNECT_S)
            self._edges.append(LocalEdge(link, config, seed=number, acceptance=acceptance))
        for replica in self._replicas:
            self._begin(replica)
        users = [
            asyncio.create_task(self._user(edge, Random(self._rng.random())))
            for edge in self._edges
            for _ in range(NUM_USERS)
        ]
        users.append(asyncio.create_task(self._user_without_edge(Random(self._rng.random()))))
        chaos = asyncio.create_task(self._chaos())
        await asyncio.gather(*users)
        chaos.cancel()
        await asyncio.wait([chaos])
        await self._look_for_leftovers()
        self.outcome.seconds = loop.time() - start_s
        self._folder.cleanup()
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
            server = self._servers.get(rng.choice(self._replicas))
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

    # Those who serve.
    def _begin(self, replica: Replica) -> None:
        config = ServerConfig(
            engine=EngineSettings(max_sessions=48, num_slots=NUM_SLOTS, patience_s=PATIENCE_S)
        )
        server = self._servers[replica] = LocalServer(config, step_s=STEP_S)
        gate = self._gates[replica] = Gate(self._keys)
        replica.servicer = WispServicer(server.service, server.telemetry, gate, WRITE_TIMEOUT_S)

    async def _kill(self, replica: Replica) -> LocalServer | None:
        """At once: nobody is told but by the connections that break."""
        server = self._servers.pop(replica, None)
        if server:
            replica.servicer = None
            for call in list(replica.calls):
                call.cut(self._rng.choice(LOST))
            await server.stop()
        return server

    async def _restart(self, replica: Replica) -> None:
        await self._kill(replica)
        await asyncio.sleep(self._rng.uniform(0.5, 5.0))
        self._begin(replica)

    def _new_key(self) -> tuple[tuple[str, str], ...]:
        self._num_keys += 1
        key = add(self._keys, KeyRecord(name=f"key-{self._num_keys}"))
        for gate in self._gates.values():
            gate.reload()
        return (("authorization", f"Bearer {key}"),)

    # What goes wrong.
    async def _chaos(self) -> None:
        faults: list[tuple[float, Callable[[Replica], Awaitable[None]]]] = [
            (30.0, self._fault_cut),
            (20.0, self._fault_half_open),
            (10.0, self._fault_silence),
            (1.0, self._fault_partition),
            (2.0, self._fault_kill),
            (1.0, self._fault_crash),
            (1.0, self._fault_hang),
            (2.0, self._fault_stop),
            (2.0, self._fault_drain),
            (1.0, self._fault_expired),
            (2.0, self._fault_revoke),
        ]
        weights = [weight for weight, _ in faults]
        while True:
            await asyncio.sleep(self._rng.expovariate(1.0 / MEAN_PAUSE_S))
            replica = self._rng.choice(self._replicas)
            if replica not in self._servers:
                continue
            ((_, fault),) = self._rng.choices(faults, weights)
            self.outcome.faults[fault.__name__.removeprefix("_fault_")] += 1
            await fault(replica)

    def _some_call(self, replica: Replica) -> list[Call]:
        calls = list(replica.calls)
        return [self._rng.choice(calls)] if calls else []

    async def _fault_cut(self, replica: Replica) -> None:
        for call in self._some_call(replica):
            call.cut(self._rng.choice(LOST))

    async def _fault_half_open(self, replica: Replica) -> None:
        """An edge changes its network: its old self stays at the server for a while."""
        for call in self._some_call(replica):
            call.half_open(self._rng.choice(LOST))

    async def _fault_silence(self, replica: Replica) -> None:
        for call in self._some_call(replica):
            call.swallow(self._silence_s())

    def _silence_s(self) -> float:
        """Mostly short; some are longer than a ping is waited for."""
        return self._rng.uniform(0.1, 3.0 if self._rng.random() < 0.8 else 45.0)

    async def _fault_partition(self, replica: Replica) -> None:
        seconds = self._silence_s()
        for call in list(replica.calls):
            call.swallow(seconds)

    async def _fault_kill(self, replica: Replica) -> None:
        await self._restart(replica)

    async def _fault_crash(self, replica: Replica) -> None:
        """The engine alone: the front answers everybody, and leaves."""
        self._servers[replica].engine.crash()
        await asyncio.sleep(0.1)
        await self._restart(replica)

    async def _fault_hang(self, replica: Replica) -> None:
        engine = self._servers[replica].engine
        engine.hang()
        await engine.lost.wait()  # its heartbeat is missed
        await asyncio.sleep(0.1)
        await self._restart(replica)

    async def _fault_stop(self, replica: Replica) -> None:
        """As SIGSTOP, and SIGCONT in time."""
        server = self._servers[replica]
        seconds = self._rng.uniform(0.1, PATIENCE_S / 2)
        server.engine.hang()
        for call in list(replica.calls):
            call.swallow(seconds)
        await asyncio.sleep(seconds)
        server.engine.go_on()

    async def _fault_drain(self, replica: Replica) -> None:
        service = self._servers[replica].service
        await service.drain(self._rng.uniform(0.0, 5.0), asyncio.Event())
        await asyncio.sleep(0.2)
        await self._restart(replica)

    async def _fault_expired(self, replica: Replica) -> None:
        """No new connection is made until the certificate is renewed."""
        replica.trusted = False
        await asyncio.sleep(self._rng.uniform(1.0, 10.0))
        replica.trusted = True

    async def _fault_revoke(self, replica: Replica) -> None:
        number = self._rng.randrange(NUM_EDGES)
        name = self._gates[replica].caller(self._metadata[number][0][1]).name
        revoke(self._keys, name)
        for other, gate in self._gates.items():
            if gate.reload() and other in self._servers:
                self._servers[other].service.revoke(gate)
        await asyncio.sleep(self._rng.uniform(0.0, 1.0))
        self._metadata[number] = self._new_key()

    async def _look_for_leftovers(self) -> None:
        """Once the last connections that nobody told of are found."""
        left = self.outcome.leftovers
        for edge in self._edges:
            if edge.backend.running:
                left.append(f"{len(edge.backend.running)} generations of {edge.link.address}")
            await edge.stop()
        await asyncio.sleep(60.0)
        for replica, server in self._servers.items():
            counts = {
                "sessions of the front": server.engine.num_sessions,
                "sessions of the service": server.service.num_owned,
                "sessions of the engine": len(server.engine.engine.sessions),
                "sessions of the target": server.engine.verifier.num_open,
                "calls": len(replica.calls),
                "sessions counted": len(server.telemetry.sessions),
            }
            left += [f"{count} {what} at {replica.name}" for what, count in counts.items() if count]
            await server.stop()
        await asyncio.sleep(1.0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        left += [f"a task: {task.get_coro()}" for task in others]
