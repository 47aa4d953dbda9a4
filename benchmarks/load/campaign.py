"""Loads one after another on one running server, each a row that is kept at once."""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.load.fleet import Fleet, Row, Server, measure
from benchmarks.load.worker import Demand, Population
from benchmarks.search import ATTAINED, best_capacity
from wisp.core.slo import Slo
from wisp.testing.drafter import COVERAGE

FIRST_TOKEN_S = 2.0  # the default of wisp-server
PLAIN = "vllm"  # in the place of a policy: a server that knows none

# What each policy may choose from. A batch of `sled` is taken when it is full or its first member
# has waited: a large one with a short wait is continuous batching in all but name. As published it
# has one draft length and one batch size, and a batch waits for the slowest of its members: 4 is
# the default length of wisp-server, 8 is half of the fewest devices that matter here (assumed: the
# paper fixes both without a rule), and no batch of ours waits for a minute.
PUBLISHED_SLED = "sled-published"
TUNINGS: dict[str, tuple[dict[str, Any], ...]] = {
    "sled": tuple(
        {"block_tokens": length, "batch_size": 32, "batch_wait_s": 0.02} for length in (4, 2, 6)
    ),
    PUBLISHED_SLED: ({"block_tokens": 4, "batch_size": 8, "batch_wait_s": 60.0},),
}
_SERVED_AS = {PUBLISHED_SLED: "sled"}  # where a name here is not that of the server's policy


@dataclass(frozen=True)
class Times:
    """Of one load: the window begins `warm_s` after it changed, and `join_s` for each new user."""

    warm_s: float = 4.0
    measure_s: float = 10.0
    join_s: float = 0.06


@dataclass(frozen=True)
class Load:
    """So many users of one kind, and what they were promised; `regime` is a name for rows."""

    population: Population
    rate: float  # tokens/s
    acceptance: float
    devices: int
    regime: str = ""
    coverage: tuple[float, ...] = COVERAGE  # of rejections, by the first, second, ... alternative
    times: Times | None = None  # None: those of the campaign


class OutOfTime(Exception):
    """The budget does not hold another load."""


class Campaign:
    """The loads of one server.

    `plain`: it knows no edges and no policies; what stands for one is the server's own name.
    `num_clients`: HTTP clients beside the devices. Rows go to `path` as they are made. `baseline`
    has the goodput of plain vLLM by load, and gets it from a server of that name: campaigns that
    share one tell what they gain.
    """

    def __init__(
        self,
        fleet: Fleet,
        server: Server,
        times: Times,
        *,
        part: str,
        plain: bool = False,
        path: Path | None = None,
        num_clients: int = 0,
        end_s: float = math.inf,
        baseline: dict[Load, float] | None = None,
    ) -> None:
        self._fleet = fleet
        self._server = server
        self._times = times
        self._part = part
        self._plain = plain
        self._path = path
        self._num_clients = num_clients
        self._end_s = end_s
        self._baseline = {} if baseline is None else baseline
        self._policy: dict[str, Any] | None = None
        self._running: Demand | None = None
        self._overloaded = False
        self._found: dict[tuple[Any, ...], Row] = {}
        self.best_tuning: dict[str, dict[str, Any]] = {}  # of each policy, the last found

    @property
    def rows(self) -> list[Row]:
        return list(self._found.values())

    @property
    def url(self) -> str:
        return self._server.url

    def point(self, policy: str, load: Load, tuning: dict[str, Any]) -> Row:
        """The same load is not measured twice. Raises OutOfTime, and Unavailable if all ends."""
        name = " ".join(f"{key} {value:g}" for key, value in tuning.items())
        key = policy, name, load
        if key not in self._found:
            self._switch(policy, tuning)
            about: Row = {
                "part": self._part,
                "regime": load.regime,
                "policy": policy,
                "tuning": name,
                "rate": load.rate,
                "acceptance": load.acceptance,
                "coverage": round(sum(load.coverage), 3),
                "devices": load.devices,
                "clients": self._num_clients,
            }
            measured = self._measured(load)
            row = about | measured | {"gain": self.gain(policy, load, measured["goodput"])}
            self._found[key] = row
            self._overloaded = bool(row["attainment"] < ATTAINED)
            self._keep(row)
        return self._found[key]

    def _measured(self, load: Load) -> Row:
        if self._overloaded:  # that is over before the next load begins
            half = self._running = self._demand(replace(load, devices=load.devices // 2))
            self._fleet.serve(half)
            time.sleep(half.spread_s)
        demand, times = self._demand(load), load.times or self._times
        warm_s = demand.spread_s + 0.5 * times.warm_s
        if time.monotonic() + warm_s + times.measure_s > self._end_s:
            raise OutOfTime
        self._running = demand
        return measure(self._fleet, self._server, demand, warm_s, times.measure_s)

    def gain(self, policy: str, load: Load, goodput: float) -> float | None:
        """Over plain vLLM under the same load; None where that was not measured."""
        if policy == PLAIN:
            self._baseline[load] = goodput
        plain = self._baseline.get(load)
        return round(goodput / plain, 3) if plain else None

    def best_point(self, policy: str, load: Load) -> Row:
        """By the tuning with the highest goodput, which is kept. Raises as `point`."""

        def goodput(tuning: dict[str, Any]) -> float:
            return float(self.point(policy, load, tuning)["goodput"])

        best = self.best_tuning[policy] = max(TUNINGS.get(policy, ({},)), key=goodput)
        return self.point(policy, load, best)

    def capacity(self, policy: str, load: Load, *, start: int, most: int, resolution: float) -> int:
        """The most devices that hold `ATTAINED`, by the best tuning. Raises as `point`."""

        def holds(tuning: dict[str, Any], devices: int) -> bool:
            row = self.point(policy, replace(load, devices=devices), tuning)
            return bool(row["attainment"] >= ATTAINED)

        kept = self.best_tuning.get(policy)
        tunings = sorted(TUNINGS.get(policy, ({},)), key=lambda each: each != kept)
        count, self.best_tuning[policy] = best_capacity(
            tunings, holds, start=start, max_count=most, resolution=resolution
        )
        return count

    def _switch(self, policy: str, tuning: dict[str, Any]) -> None:
        choice = {"policy": _SERVED_AS.get(policy, policy), **tuning}
        if not self._plain and choice != self._policy:
            self._server.switch(choice)
            self._policy = choice

    def _demand(self, load: Load) -> Demand:
        demand = Demand(
            num_edges=0 if self._plain else load.devices,
            num_clients=load.devices if self._plain else self._num_clients,
            population=load.population,
            slo=Slo(tokens_per_s=load.rate, first_token_s=FIRST_TOKEN_S),
            acceptance=load.acceptance,
            coverage=load.coverage,
        )
        times = load.times or self._times
        join_s = times.join_s * demand.num_new(self._running)
        return replace(demand, spread_s=0.5 * times.warm_s + join_s)

    def _keep(self, row: Row) -> None:
        told = ["part", "regime", "policy", "tuning", "rate", "acceptance", "devices"]
        told += ["attainment", "goodput", "busy", "gain"]
        said = ", ".join(f"{name} {row[name]}" for name in told if row[name] not in ("", None))
        print(f"{time.strftime('%H:%M:%S')} {said}", file=sys.stderr, flush=True)
        if self._path:
            append(self._path, row)


def append(path: Path, row: Row) -> None:
    """To a CSV file, which gets its header with its first row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def table(rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    widths = {name: max(len(name), *(len(str(row[name])) for row in rows)) for name in rows[0]}
    yield "  ".join(f"{name:>{width}}" for name, width in widths.items())
    for row in rows:
        yield "  ".join(f"{row[name]!s:>{width}}" for name, width in widths.items())
