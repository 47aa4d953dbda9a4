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
from benchmarks.load.worker import Demand
from benchmarks.search import ATTAINED, best_capacity
from wisp.core.slo import Slo

FIRST_TOKEN_S = 2.0  # the default of wisp-server
PLAIN = "vllm"  # in the place of a policy: a server that knows none

# What each policy may choose from. A batch of `sled` is taken when it is full or its first member
# has waited: a large one with a short wait is continuous batching in all but name.
TUNINGS: dict[str, tuple[dict[str, Any], ...]] = {
    "sled": tuple(
        {"block_tokens": length, "batch_size": 32, "batch_wait_s": 0.02} for length in (4, 2, 6)
    )
}


@dataclass(frozen=True)
class Times:
    """Of one load: the window begins `warm_s` after it changed, and `join_s` for each new user."""

    warm_s: float = 4.0
    measure_s: float = 10.0
    join_s: float = 0.06


class OutOfTime(Exception):
    """The budget does not hold another load."""


class Campaign:
    """`num_clients`: HTTP clients beside the devices. Rows go to `path` as they are made."""

    def __init__(
        self,
        fleet: Fleet,
        server: Server,
        times: Times,
        *,
        path: Path | None = None,
        num_clients: int = 0,
        end_s: float = math.inf,
    ) -> None:
        self._fleet = fleet
        self._server = server
        self._times = times
        self._path = path
        self._num_clients = num_clients
        self._end_s = end_s
        self._policy: dict[str, Any] | None = None
        self._running: Demand | None = None
        self._overloaded = False
        self._found: dict[tuple[Any, ...], Row] = {}
        self.best_tuning: dict[str, dict[str, Any]] = {}  # of each policy, the last found

    @property
    def rows(self) -> list[Row]:
        return list(self._found.values())

    def point(
        self, policy: str, rate: float, acceptance: float, devices: int, tuning: dict[str, Any]
    ) -> Row:
        """The same load is not measured twice. Raises OutOfTime, and Unavailable if all ends."""
        name = " ".join(f"{key} {value:g}" for key, value in tuning.items())
        key = policy, name, rate, acceptance, devices
        if key not in self._found:
            self._switch(policy, tuning)
            about: Row = {
                "policy": policy,
                "tuning": name,
                "rate": rate,
                "acceptance": acceptance,
                "devices": devices,
                "clients": self._num_clients,
            }
            row = about | self._measured(policy, rate, acceptance, devices)
            self._found[key] = row
            self._overloaded = bool(row["attainment"] < ATTAINED)
            self._keep(row)
        return self._found[key]

    def _measured(self, policy: str, rate: float, acceptance: float, devices: int) -> Row:
        if self._overloaded:  # that is over before the next load begins
            half = self._running = self._demand(policy, rate, acceptance, devices // 2)
            self._fleet.serve(half)
            time.sleep(half.spread_s)
        demand = self._demand(policy, rate, acceptance, devices)
        warm_s = demand.spread_s + 0.5 * self._times.warm_s
        if time.monotonic() + warm_s + self._times.measure_s > self._end_s:
            raise OutOfTime
        self._running = demand
        return measure(self._fleet, self._server, demand, warm_s, self._times.measure_s)

    def best_point(self, policy: str, rate: float, acceptance: float, devices: int) -> Row:
        """By the tuning with the highest goodput, which is kept. Raises as `point`."""

        def goodput(tuning: dict[str, Any]) -> float:
            return float(self.point(policy, rate, acceptance, devices, tuning)["goodput"])

        best = self.best_tuning[policy] = max(TUNINGS.get(policy, ({},)), key=goodput)
        return self.point(policy, rate, acceptance, devices, best)

    def capacity(
        self,
        policy: str,
        rate: float,
        acceptance: float,
        *,
        start: int,
        most: int,
        resolution: float,
    ) -> int:
        """The most devices that hold `ATTAINED`, by the best tuning. Raises as `point`."""

        def holds(tuning: dict[str, Any], devices: int) -> bool:
            row = self.point(policy, rate, acceptance, devices, tuning)
            return bool(row["attainment"] >= ATTAINED)

        kept = self.best_tuning.get(policy)
        tunings = sorted(TUNINGS.get(policy, ({},)), key=lambda each: each != kept)
        count, self.best_tuning[policy] = best_capacity(
            tunings, holds, start=start, max_count=most, resolution=resolution
        )
        return count

    def _switch(self, policy: str, tuning: dict[str, Any]) -> None:
        choice = {"policy": policy, **tuning}
        if policy != PLAIN and choice != self._policy:
            self._server.switch(choice)
            self._policy = choice

    def _demand(self, policy: str, rate: float, acceptance: float, devices: int) -> Demand:
        plain = policy == PLAIN
        demand = Demand(
            num_edges=0 if plain else devices,
            num_clients=devices if plain else self._num_clients,
            slo=Slo(tokens_per_s=rate, first_token_s=FIRST_TOKEN_S),
            acceptance=acceptance,
        )
        join_s = self._times.join_s * demand.num_new(self._running)
        return replace(demand, spread_s=0.5 * self._times.warm_s + join_s)

    def _keep(self, row: Row) -> None:
        told = "policy", "tuning", "rate", "acceptance", "devices", "attainment", "goodput", "busy"
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
