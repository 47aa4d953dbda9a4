"""A process of the load generator: its share of the users, in one event loop."""

from __future__ import annotations

import asyncio
import itertools
import logging
import selectors
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from random import Random
from typing import Any, Literal

from benchmarks.load.edges import Edge
from benchmarks.load.http import HttpClient, client
from benchmarks.load.score import Tally
from benchmarks.load.texts import SessionTexts
from benchmarks.load.users import Bell, Connection, User
from benchmarks.sim.network import Line
from benchmarks.sim.profiles import Device, Network
from benchmarks.sim.workload import Workload
from wisp.core.slo import Slo
from wisp.edge.link import Link
from wisp.edge.predictor import ConfidencePredictor, Label
from wisp.metrics import EdgeMetrics
from wisp.testing.drafter import COVERAGE

_TICK_S = 0.05  # between two looks at how late this process wakes up
Kind = Literal["edges", "clients"]


@dataclass(frozen=True)
class Setting:
    """What does not change while the load runs. `grpc` None: there are no edges."""

    grpc: str | None
    url: str
    vocab_size: int
    seed: int


@dataclass(frozen=True)
class Population:
    """Who the users are: what they draft on, how far away they are, and what they ask for."""

    devices: tuple[Device, ...]
    networks: tuple[Network, ...]
    workload: Workload


@dataclass(frozen=True)
class Demand:
    """What may. The users come one by one within `spread_s`."""

    num_edges: int
    num_clients: int
    population: Population
    slo: Slo
    acceptance: float
    coverage: tuple[float, ...] = COVERAGE
    spread_s: float = 0.0

    def keeps_users(self, before: Demand) -> bool:
        """Users stay if only their number changes; else all of them begin anew."""
        ours, theirs = (
            (each.population, each.slo, each.acceptance, each.coverage) for each in (self, before)
        )
        return ours == theirs

    def num_new(self, before: Demand | None) -> int:
        if before is None or not self.keeps_users(before):
            return self.num_edges + self.num_clients
        more = self.num_edges - before.num_edges, self.num_clients - before.num_clients
        return sum(max(0, count) for count in more)


class CountingPredictor(ConfidencePredictor):
    """The replayed confidence is calibrated, and taken at its word."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def learn(self, label: Label) -> None:
        if label.features.rank == 0:  # of what was proposed; alternatives are another matter
            self._tally.stats.num_examined += 1
            self._tally.stats.num_accepted += label.accepted


class Worker:
    """`share`: this is the first of (first, of how many) workers; users are dealt out in turn."""

    def __init__(self, setting: Setting, share: tuple[int, int]) -> None:
        self._setting = setting
        self._first, self._step = share
        self.tally = Tally()
        self._users: dict[tuple[Kind, int], asyncio.Task[None]] = {}
        self._demand: Demand | None = None
        self._bell = Bell()
        self._predictor = CountingPredictor(self.tally)
        self._metrics = EdgeMetrics()

    async def connect(self) -> None:
        self._link = Link(self._setting.grpc) if self._setting.grpc else None
        if self._link:
            self._card, self._model = await self._link.model()
        self._http = client(self._setting.url)
        self._served = (await self._http.get("/v1/models")).json()["data"][0]

    async def close(self) -> None:
        await self._cancel(list(self._users))
        await self._http.aclose()
        if self._link:
            await self._link.close()

    async def serve(self, demand: Demand) -> None:
        before, self._demand = self._demand, demand
        if before and not demand.keeps_users(before):
            await self._cancel(list(self._users))
        counts: dict[Kind, int] = {"edges": demand.num_edges, "clients": demand.num_clients}
        wanted = {
            (kind, number): None
            for kind, count in counts.items()
            for number in range(self._first, count, self._step)
        }
        await self._cancel([key for key in self._users if key not in wanted])
        self.tally.load_changed(time.monotonic())
        self._bell.ring()
        for kind, number in wanted:
            if (kind, number) not in self._users:
                self._add(kind, number, demand)

    async def _cancel(self, keys: list[tuple[Kind, int]]) -> None:
        tasks = [self._users.pop(key) for key in keys]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _add(self, kind: Kind, number: int, demand: Demand) -> None:
        setting = self._setting
        user = User(
            number if kind == "edges" else -1 - number,
            self._connection(kind, number, demand),
            workload=demand.population.workload,
            slo=demand.slo,
            vocab_size=setting.vocab_size,
            tally=self.tally,
            bell=self._bell,
            seed=setting.seed,
        )
        wait_s = Random(f"arrivals {setting.seed} {kind} {number}").uniform(0.0, demand.spread_s)
        self._users[kind, number] = asyncio.create_task(user.run(wait_s))

    def _connection(self, kind: Kind, number: int, demand: Demand) -> Connection:
        setting = self._setting
        devices, networks = demand.population.devices, demand.population.networks
        # As in the simulator: dealt out evenly, each device kind on every network.
        profile = devices[number % len(devices)]
        network = networks[number // len(devices) % len(networks)]
        if kind == "clients":
            one_way_s = 0.5 * network.round_trip_s + network.jitter_s
            return HttpClient(self._http, self._served, setting.vocab_size, one_way_s)
        assert self._link
        up, down = (
            Line(network, Random(f"{way} {setting.seed} {number}")) for way in ("up", "down")
        )
        return Edge(
            number,
            self._link,
            self._card,
            self._model,
            profile=profile,
            lines=(up, down),
            texts=SessionTexts(demand.acceptance, coverage=demand.coverage),
            predictor=self._predictor,
            metrics=self._metrics,
            seed=setting.seed,
        )


def work(pipe: Pipe, setting: Setting, share: tuple[int, int]) -> None:
    """The body of the process: obeys what comes through the pipe, and answers each command."""
    logging.basicConfig(level="WARNING", format="%(asctime)s worker %(levelname)s %(message)s")
    with asyncio.Runner(loop_factory=_precise_loop) as runner:
        runner.run(_obey(pipe, setting, share))


def _precise_loop() -> asyncio.AbstractEventLoop:
    """One whose timers do not wait for the next whole millisecond, as with epoll they do: devices
    that draft a token in 5 ms would take 5.5."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _obey(pipe: Pipe, setting: Setting, share: tuple[int, int]) -> None:
    worker = Worker(setting, share)
    await worker.connect()
    commands: asyncio.Queue[Any] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    loop.add_reader(pipe.fileno(), lambda: commands.put_nowait(_received(pipe)))
    ticking = asyncio.create_task(_watch_lateness(worker.tally))
    pipe.send("ready")
    while True:
        match await commands.get():
            case Demand() as demand:
                await worker.serve(demand)
                pipe.send("served")
            case "window begins":
                worker.tally.window_begins(time.monotonic())
                pipe.send("begun")
            case "window ends":
                pipe.send(worker.tally.window_ends(time.monotonic()))
            case _:  # "stop", or the parent has gone
                break
    loop.remove_reader(pipe.fileno())
    ticking.cancel()
    await worker.close()


def _received(pipe: Pipe) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        return "stop"


async def _watch_lateness(tally: Tally) -> None:
    for _ in itertools.repeat(None):
        wanted_s = time.monotonic() + _TICK_S
        await asyncio.sleep(_TICK_S)
        tally.stats.late_s.append(time.monotonic() - wanted_s)


def shares(num_workers: int) -> Iterator[tuple[int, int]]:
    return ((first, num_workers) for first in range(num_workers))
