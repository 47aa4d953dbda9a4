"""A fleet whose sessions do not fit into KV memory, with host memory to park them in and without.

    python -m benchmarks.parking [--devices 48 96 144 288 400] [--measured-s 40] [--seed 1] [--json]

The regime `fleet` of benchmarks/sim/regimes.py: the 32B shape on an H100 with 24,000 tokens of KV,
8 tokens/s promised. The engine, the policies and the edges' streams are the real ones, time is
virtual. A copy between the two memories takes what was measured (benchmarks/sim/target.py).
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from typing import NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.sim.fleet import Report, simulate
from benchmarks.sim.regimes import REGIMES
from wisp.scheduler.tuning import PolicyName, Tuning

# Tokens of the 32B shape, 262 kB each, whose KV 96 GiB hold: three quarters of the host's memory.
HOST_KV_TOKENS = 96 * 2**30 // 262_144
ACCEPTANCE = 0.7  # of a draft token, as in the other regimes


class Column(NamedTuple):
    policy: PolicyName
    parks: bool

    @property
    def name(self) -> str:
        return f"{self.policy}{', parked' if self.parks else ''}"


COLUMNS = (
    Column("wisp", parks=True),
    Column("wisp", parks=False),
    Column("centralized", parks=True),
    Column("centralized", parks=False),
)


def simulated(cell: tuple[int, Column, float, int]) -> Report:
    devices, column, measured_s, seed = cell
    setup = REGIMES["fleet"].setup(ACCEPTANCE, seed, measured_s)
    setup = replace(setup, host_kv_tokens=HOST_KV_TOKENS * column.parks, met_halfway=True)
    return simulate(column.policy, devices, setup, Tuning())


def row(devices: int, reports: list[Report]) -> dict[str, object]:
    columns = {
        column.name: {
            "attainment": report.attainment,
            "goodput": report.goodput,
            "recomputed_share": report.recomputed,
            "copied_tokens_per_s": report.copied_per_s,
        }
        for column, report in zip(COLUMNS, reports, strict=True)
    }
    return {"devices": devices, "columns": columns}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[48, 96, 144, 288, 400])
    parser.add_argument("--measured-s", type=float, default=40.0, help="of virtual time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    cells = [
        (devices, column, asked.measured_s, asked.seed)
        for devices, column in product(asked.devices, COLUMNS)
    ]
    console = Console(stderr=True)
    with ProcessPoolExecutor() as pool:
        found = pool.map(simulated, cells)
        reports = list(track(found, "simulating", total=len(cells), console=console))
    size = len(COLUMNS)
    rows = [
        row(devices, reports[index * size : (index + 1) * size])
        for index, devices in enumerate(asked.devices)
    ]
    if asked.json:
        print(json.dumps({"seed": asked.seed, "measured_s": asked.measured_s, "rows": rows}))
        return
    table = Table("devices", *(column.name for column in COLUMNS), title="attainment / goodput")
    for index, devices in enumerate(asked.devices):
        of_row = reports[index * size : (index + 1) * size]
        table.add_row(str(devices), *(f"{r.attainment:.2f} / {r.goodput:.0f}" for r in of_row))
    Console().print(table)


if __name__ == "__main__":
    main()
