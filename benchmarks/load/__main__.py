"""Emulated edges and plain clients against a real server, in real time.

    python -m benchmarks.load [--policies wisp centralized] [--rates 8] [--acceptances 0.7]
                              (--devices 8,16,32 | --ramp) [--engine torch|vllm] [--shape small]
    python -m benchmarks.load --plain [--engine-url URL]     vLLM's own server, the same users

The target is predictable (`benchmarks/load/target.py`), so that acceptance is what is asked for;
its steps cost what its shape costs. An edge is the real draft stream over real gRPC with a replayed
drafter. docs/measurements.md says how promises are judged. Rows of --csv are written one by one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.load.campaign import PLAIN, Campaign, Times, table
from benchmarks.load.fleet import Fleet, Server
from benchmarks.load.servers import PlainVllm, wisp_server
from benchmarks.load.target import config
from benchmarks.load.worker import Setting
from benchmarks.setting import describe, setting
from benchmarks.vllm_steps import SHAPES
from wisp.errors import WispError
from wisp.scheduler.policy import POLICIES
from wisp.sim.profiles import CELLULAR, DEVICES, WIFI, WIRED, Network
from wisp.sim.workload import SHARE_GPT, Lengths, Workload

SEED = 1


def main() -> int:
    options = _options()
    try:
        with running(options) as campaign:
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
                for devices in options.devices:
                    campaign.best_point(policy, rate, acceptance, devices)
                if options.ramp:
                    count = campaign.capacity(
                        policy,
                        rate,
                        acceptance,
                        start=options.start,
                        most=options.most,
                        resolution=options.resolution,
                    )
                    found = {"policy": policy, "rate": rate, "acceptance": acceptance}
                    capacities.append(found | {"capacity": count})
    return capacities


@contextlib.contextmanager
def running(options: argparse.Namespace) -> Iterator[Campaign]:
    """A server and a fleet, as the options ask."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wisp-load-")))
        log_folder = options.logs or folder
        log_folder.mkdir(parents=True, exist_ok=True)
        size = {"shape": options.shape, "kv_tokens": options.kv_tokens}
        size["max_sessions"] = options.max_sessions
        grpc: str | None = None
        if options.engine_url:
            server = Server(options.engine_url)
        elif options.plain:
            vllm = stack.enter_context(PlainVllm(log_folder, **size))
            server = Server(vllm.url, vllm.alive)
        else:
            process = stack.enter_context(
                wisp_server(
                    log_folder,
                    engine=options.engine,
                    profile_s=options.profile_s,
                    flags=options.server_flag,
                    **size,
                )
            )
            grpc = f"127.0.0.1:{process.facts['grpc']}"
            server = Server(process.url, process.alive)
        fleet = stack.enter_context(Fleet(fleet_setting(options, grpc, server), options.workers))
        yield Campaign(
            fleet,
            server,
            Times(options.warm_s, options.measure_s),
            path=options.csv,
            num_clients=options.clients,
        )


def fleet_setting(options: argparse.Namespace, grpc: str | None, server: Server) -> Setting:
    networks: tuple[Network, ...] = WIRED, WIFI, CELLULAR
    if options.round_trip_ms is not None:
        networks = (Network("fixed", options.round_trip_ms / 1000, 0.0, 0.0),)
    devices = [each for each in DEVICES if options.device in (None, each.name)]
    prompt, output = Lengths(options.prompt_tokens), Lengths(options.output_tokens)
    return Setting(
        grpc=grpc,
        url=server.url,
        vocab_size=config(options.shape)["vocab_size"],
        devices=tuple(devices),
        networks=networks,
        workload=Workload(prompt, output, options.think_s),
        seed=options.seed,
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of every load test, the suite's too."""
    parser.add_argument("--shape", choices=["small", *SHAPES], default="small")
    parser.add_argument("--engine", choices=["torch", "vllm"], default="torch")
    parser.add_argument("--kv-tokens", type=int, help="KV memory; default: what there is")
    parser.add_argument("--max-sessions", type=int, default=512, help="open at the server at once")
    parser.add_argument("--profile-s", type=float, help="of the estimator, before the first load")
    parser.add_argument("--server-flag", action="append", default=[], help="for wisp-server, as is")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--clients", type=int, default=0, help="HTTP clients beside the devices")
    parser.add_argument("--warm-s", type=float, default=4.0, help="after each change of the load")
    parser.add_argument("--measure-s", type=float, default=10.0)
    parser.add_argument("--device", choices=[each.name for each in DEVICES], help="default: a mix")
    parser.add_argument("--round-trip-ms", type=float, help="default: a mix of networks")
    parser.add_argument("--prompt-tokens", type=float, default=SHARE_GPT[0].mean, help="mean")
    parser.add_argument("--output-tokens", type=float, default=SHARE_GPT[1].mean, help="mean")
    parser.add_argument("--think-s", type=float, default=1.0, help="between requests, mean")
    parser.add_argument("--most", type=int, default=400, help="devices, of a ramp")
    parser.add_argument("--resolution", type=float, default=0.06, help="of a capacity")
    parser.add_argument("--seed", type=int, default=SEED)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=["wisp", "centralized"])
    parser.add_argument("--rates", type=float, nargs="+", default=[8.0], help="tokens/s promised")
    parser.add_argument("--acceptances", type=float, nargs="+", default=[0.7])
    parser.add_argument("--devices", type=_numbers, default=[], help="loads, e.g. 8,16,32")
    parser.add_argument("--ramp", action="store_true", help="find the capacity")
    parser.add_argument("--start", type=int, default=8, help="devices, of a ramp")
    parser.add_argument("--plain", action="store_true", help="vLLM's own server")
    parser.add_argument("--engine-url", help="with --plain: any OpenAI-compatible server")
    parser.add_argument("--logs", type=Path, help="folder for the server's log")
    parser.add_argument("--csv", type=Path, help="append the rows to this file, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if not (options.devices or options.ramp):
        options.devices = [4, 8]
    if options.engine_url and not options.plain:
        parser.error("--engine-url goes with --plain")
    if options.shape != "small" and options.engine != "vllm" and not options.plain:
        parser.error("large shapes need --engine vllm")
    return options


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
