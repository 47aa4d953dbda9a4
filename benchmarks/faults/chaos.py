"""What goes wrong: one fault after another, as one random number generator says."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

from benchmarks.faults.fleet import NUM_EDGES, PATIENCE_S, Fleet
from benchmarks.faults.network import LOST, Call, Replica
from wisp.errors import ConfigError

MEAN_PAUSE_S = 0.15  # between two faults, in virtual time; chosen: most texts meet one


class Chaos:
    """`faults` counts what was done, by its name."""

    def __init__(self, fleet: Fleet, rng: Random) -> None:
        self.faults: Counter[str] = Counter()
        self._fleet = fleet
        self._rng = rng

    async def run(self) -> None:
        """For ever."""
        faults: list[tuple[float, Callable[[Replica], Awaitable[None]]]] = [
            (30.0, self._cut),
            (20.0, self._half_open),
            (10.0, self._silence),
            (1.0, self._partition),
            (2.0, self._kill),
            (1.0, self._crash),
            (1.0, self._hang),
            (2.0, self._stop),
            (2.0, self._drain),
            (1.0, self._expired),
            (2.0, self._revoke),
            (2.0, self._full_disk),
        ]
        weights = [weight for weight, _ in faults]
        while True:
            await asyncio.sleep(self._rng.expovariate(1.0 / MEAN_PAUSE_S))
            replica = self._rng.choice(self._fleet.replicas)
            if replica not in self._fleet.servers:
                continue
            ((_, fault),) = self._rng.choices(faults, weights)
            self.faults[fault.__name__.removeprefix("_")] += 1
            await fault(replica)

    def _some_call(self, replica: Replica) -> list[Call]:
        calls = list(replica.calls)
        return [self._rng.choice(calls)] if calls else []

    async def _cut(self, replica: Replica) -> None:
        for call in self._some_call(replica):
            call.cut(self._rng.choice(LOST))

    async def _half_open(self, replica: Replica) -> None:
        """An edge changes its network: its old self stays at the server for a while."""
        for call in self._some_call(replica):
            call.half_open(self._rng.choice(LOST))

    async def _silence(self, replica: Replica) -> None:
        for call in self._some_call(replica):
            call.swallow(self._silence_s())

    def _silence_s(self) -> float:
        """Mostly short; some are longer than a ping is waited for."""
        return self._rng.uniform(0.1, 3.0 if self._rng.random() < 0.8 else 45.0)

    async def _partition(self, replica: Replica) -> None:
        seconds = self._silence_s()
        for call in list(replica.calls):
            call.swallow(seconds)

    async def _kill(self, replica: Replica) -> None:
        await self._restart(replica)

    async def _restart(self, replica: Replica) -> None:
        await self._fleet.kill(replica)
        await asyncio.sleep(self._rng.uniform(0.5, 5.0))
        self._fleet.begin(replica)

    async def _crash(self, replica: Replica) -> None:
        """The engine alone: the front answers everybody, and leaves."""
        self._fleet.servers[replica].engine.crash()
        await asyncio.sleep(0.1)
        await self._restart(replica)

    async def _hang(self, replica: Replica) -> None:
        engine = self._fleet.servers[replica].engine
        engine.hang()
        await engine.lost.wait()  # its heartbeat is missed
        await asyncio.sleep(0.1)
        await self._restart(replica)

    async def _stop(self, replica: Replica) -> None:
        """As SIGSTOP, and SIGCONT in time."""
        server = self._fleet.servers[replica]
        seconds = self._rng.uniform(0.1, PATIENCE_S / 2)
        server.engine.hang()
        for call in list(replica.calls):
            call.swallow(seconds)
        await asyncio.sleep(seconds)
        server.engine.go_on()

    async def _drain(self, replica: Replica) -> None:
        service = self._fleet.servers[replica].service
        await service.drain(self._rng.uniform(0.0, 5.0), asyncio.Event())
        await asyncio.sleep(0.2)
        await self._restart(replica)

    async def _expired(self, replica: Replica) -> None:
        """No new connection is made until the certificate is renewed."""
        replica.trusted = False
        await asyncio.sleep(self._rng.uniform(1.0, 10.0))
        replica.trusted = True

    async def _revoke(self, replica: Replica) -> None:
        number = self._rng.randrange(NUM_EDGES)
        try:
            self._fleet.revoke(number)
        except ConfigError:
            assert self._fleet.disk.full
            self.faults["revoke_refused"] += 1
            return
        await asyncio.sleep(self._rng.uniform(0.0, 1.0))
        try:
            self._fleet.renew(number)
        except ConfigError:  # there was room for a file with one key less
            assert self._fleet.disk.full
            self.faults["renew_refused"] += 1
            await self._fleet.disk.has_room.wait()
            self._fleet.renew(number)

    async def _full_disk(self, replica: Replica) -> None:
        """Other faults go on meanwhile; servers end and begin, edges save, keys are revoked."""
        disk = self._fleet.disk
        if not disk.full:
            disk.fill(self._rng.choice([0, 0, self._rng.randrange(4096)]))
            seconds = self._rng.uniform(1.0, 20.0)
            asyncio.get_running_loop().call_later(seconds, disk.clear)
