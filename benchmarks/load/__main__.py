"""Emulated edges and plain clients against a real server, in real time.

    python -m benchmarks.load [--policies wisp centralized] [--rates 8] [--acceptances 0.7]
                              (--devices 8,16,32 | --ramp) [--engine torch|vllm] [--shape small]
    python -m benchmarks.load --plain [--engine-url URL]     vLLM's own server, the same users

The target is predictable (`benchmarks/load/target.py`), so that acceptance is what is asked for;
its steps cost what its shape costs. An edge is the real draft stream over real gRPC with a replayed
drafter. docs/measurements/load.md says how promises are judged. Rows of --csv are written one by
one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.load.campaign import PLAIN, PUBLISHED_SLED, Campaign, Load, table
from benchmarks.load.running import add_options, population, running
from benchmarks.load.target import OWN_SHAPES
from benchmarks.setting import describe, setting
from wisp.errors import WispError
from wisp.scheduler.tuning import POLICIES


def main() -> int:
    options = _options()
    part = PLAIN if options.plain else "wisp"
    try:
        with tempfile.TemporaryDirectory(prefix="wisp-load-") as folder:
            logs = options.logs or Path(folder)
            with running(options, logs, part=part, csv=options.csv) as campaign:
                capacities = run(campaign, options)
    except WispError as error:
        print(f"benchmarks.load: {error}", file=sys.stderr)
        return 1
    about = setting(options.seed, shape=options.shape, warm_s=options.warm_s)
    about |= {"measure_s": options.measure_s, "workers": options.workers}
    if options.json:
        print(json.dumps({"setting": about, "rows": campaign.rows, "capacity": capacities}))
        return 0
    print(describe(about))
    for line in [*table(campaign.rows), *table(capacities)]:
        print(line)
    return 0


def run(campaign: Campaign, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All that was asked for; returns the capacities found."""
    policies = [PLAIN] if options.plain else options.policies
    capacities = []
    for rate in options.rates:
        for acceptance in options.acceptances:
            for policy in policies:
                load = Load(population(options), rate, acceptance, options.start)
                for devices in options.devices:
                    campaign.best_point(policy, replace(load, devices=devices))
                if options.ramp:
                    count = campaign.capacity(
                        policy,
                        load,
                        start=options.start,
                        most=options.most,
                        resolution=options.resolution,
                    )
                    found = {"policy": policy, "rate": rate, "acceptance": acceptance}
                    capacities.append(found | {"capacity": count})
    return capacities


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument(
        "--policies",
        nargs="+",
        choices=[*POLICIES, PUBLISHED_SLED],
        default=["wisp", "centralized"],
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[8.0], help="tokens/s promised")
    parser.add_argument("--acceptances", type=float, nargs="+", default=[0.7])
    parser.add_argument("--devices", type=_numbers, default=[], help="loads, e.g. 8,16,32")
    parser.add_argument("--ramp", action="store_true", help="find the capacity")
    parser.add_argument("--start", type=int, default=8, help="devices, of a ramp")
    parser.add_argument("--plain", action="store_true", help="vLLM's own server")
    parser.add_argument("--logs", type=Path, help="folder for the server's log")
    parser.add_argument("--csv", type=Path, help="append the rows to this file, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if not (options.devices or options.ramp):
        options.devices = [4, 8]
    if options.engine_url and not options.plain:
        parser.error("--engine-url goes with --plain")
    if options.shape not in OWN_SHAPES and options.engine != "vllm" and not options.plain:
        parser.error("large shapes need --engine vllm")
    return options


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
