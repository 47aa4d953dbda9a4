"""Conversations whose turns come back after minutes, with host memory for their KV and without.

    python -m benchmarks.think [--devices 200 400] [--virtual-s 600] [--seed 1] [--json]

The regime `fleet` of benchmarks/sim/regimes.py: the 32B shape on an H100, 24,000 tokens of KV, 8
tokens/s promised. Questions, answers and turns of ShareGPT; half of the turns come back after 126
s, 90 % within 480 s, as in a public trace (benchmarks/load/regimes.py). Time is virtual; what is
told is of turns that come back behind the first quarter of it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from benchmarks.load.regimes import RETURN_S, RETURN_SIGMA
from benchmarks.parking import ACCEPTANCE, FORKS, HOST_KV_TOKENS
from benchmarks.setting import setting, tell
from benchmarks.sim.fleet import simulate
from benchmarks.sim.regimes import REGIMES
from benchmarks.sim.workload import SHARE_GPT_TURNS, Presence, Workload
from wisp.scheduler.tuning import Tuning

WORKLOAD = Workload(think_s=RETURN_S, turns=SHARE_GPT_TURNS, think_sigma=RETURN_SIGMA)
_WARM = 0.25  # of the time, in which the first turns come one by one


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[200, 400])
    parser.add_argument("--virtual-s", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    cells = [
        (devices, parks, asked.virtual_s, asked.seed)
        for devices, parks in product(asked.devices, (True, False))
    ]
    with ProcessPoolExecutor() as pool:
        rows: Iterator[dict[str, Any]] = pool.map(simulated, cells)
        tell(setting(asked.seed, virtual_s=asked.virtual_s), rows, as_json=asked.json)


def simulated(cell: tuple[int, bool, float, int]) -> dict[str, Any]:
    devices, parks, virtual_s, seed = cell
    warm_s = _WARM * virtual_s
    setup = replace(
        REGIMES["fleet"].setup(ACCEPTANCE, seed),
        host_kv_tokens=HOST_KV_TOKENS * parks,
        max_forks=FORKS,
        workload=WORKLOAD,
        warm_up_s=warm_s,
        measured_s=virtual_s - warm_s,
    )
    chance = np.random.default_rng(seed)
    presences = [Presence(float(at_s)) for at_s in chance.uniform(0.0, warm_s, devices)]
    report = simulate("wisp", presences, setup, Tuning())
    asked = [each for each in report.sessions if each.opened_s >= warm_s]
    waited = {
        returns: [
            each.attainment.first_token_s
            for each in asked
            if (each.num_before > 0) is returns and each.attainment.first_token_s is not None
        ]
        for returns in (True, False)
    }
    returning = [each for each in asked if each.num_before]
    return {
        "conversations": devices,
        "parked": parks,
        "attainment": round(report.attainment, 3),
        "goodput": round(report.goodput),
        "turns": len(returning),
        "history": round(statistics.fmean(each.num_before for each in returning)),
        "turn_ttft_p50_ms": _ms(waited[True], 0.5),
        "turn_ttft_p90_ms": _ms(waited[True], 0.9),
        "first_ttft_p50_ms": _ms(waited[False], 0.5),
        "found": round(report.found, 3),
        "tokens_per_step": round(report.tokens_per_step, 1),
    }


def _ms(times_s: list[float], share: float) -> float:
    return round(1e3 * float(np.quantile(times_s, share)), 1)


if __name__ == "__main__":
    main()
