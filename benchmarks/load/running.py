"""What every load test is told, and what it starts: a server, and users for it."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks.load.campaign import Campaign, Times
from benchmarks.load.fleet import Fleet, Server
from benchmarks.load.servers import PlainVllm, wisp_server
from benchmarks.load.target import OWN_SHAPES, config
from benchmarks.load.worker import Setting
from benchmarks.sim.profiles import CELLULAR, DEVICES, WIFI, WIRED, Network
from benchmarks.sim.workload import SHARE_GPT, Lengths, Workload
from benchmarks.vllm_steps import SHAPES

SEED = 1  # of everything drawn at random here; chosen: any number does, and one makes it repeatable


@contextlib.contextmanager
def running(
    options: argparse.Namespace,
    folder: Path,
    *,
    plain: bool,
    csv: Path | None = None,
    end_s: float = math.inf,
) -> Iterator[Campaign]:
    """A server and a fleet; `folder` is for the server's log and its target."""
    folder.mkdir(parents=True, exist_ok=True)
    size = {"shape": options.shape, "kv_tokens": options.kv_tokens}
    on_torch = options.engine == "torch" and not plain  # which reserves KV for all of them
    size["max_sessions"] = options.max_sessions or (64 if on_torch else 512)
    grpc: str | None = None
    with contextlib.ExitStack() as stack:
        if options.engine_url:
            server = Server(options.engine_url)
        elif plain:
            vllm = stack.enter_context(PlainVllm(folder, **size))
            server = Server(vllm.url, vllm.alive)
        else:
            starting = wisp_server(
                folder,
                engine=options.engine,
                profile_s=options.profile_s,
                flags=options.server_flag,
                **size,
            )
            process = stack.enter_context(starting)
            grpc = f"127.0.0.1:{process.facts['grpc']}"
            server = Server(process.url, process.alive)
        fleet = stack.enter_context(Fleet(fleet_setting(options, grpc, server), options.workers))
        times = Times(options.warm_s, options.measure_s, options.join_s)
        yield Campaign(fleet, server, times, path=csv, num_clients=options.clients, end_s=end_s)


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
    parser.add_argument("--shape", choices=[*OWN_SHAPES, *SHAPES], default="small")
    parser.add_argument("--engine", choices=["torch", "vllm"], default="torch")
    parser.add_argument("--kv-tokens", type=int, help="KV memory; default: what there is")
    parser.add_argument(
        "--max-sessions", type=int, help="open at the server at once; default: 512, torch 64"
    )
    parser.add_argument("--profile-s", type=float, help="of the estimator, before the first load")
    parser.add_argument("--server-flag", action="append", default=[], help="for wisp-server, as is")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--clients", type=int, default=0, help="HTTP clients beside the devices")
    parser.add_argument("--warm-s", type=float, default=4.0, help="after each change of the load")
    parser.add_argument("--measure-s", type=float, default=10.0)
    parser.add_argument("--join-s", type=float, default=0.06, help="to warm up, for each new user")
    parser.add_argument("--device", choices=[each.name for each in DEVICES], help="default: a mix")
    parser.add_argument("--round-trip-ms", type=float, help="default: a mix of networks")
    parser.add_argument("--prompt-tokens", type=float, default=SHARE_GPT[0].mean, help="mean")
    parser.add_argument("--output-tokens", type=float, default=SHARE_GPT[1].mean, help="mean")
    parser.add_argument("--think-s", type=float, default=1.0, help="between requests, mean")
    parser.add_argument("--engine-url", help="with --plain: any OpenAI-compatible server")
    parser.add_argument("--most", type=int, default=400, help="devices, of a ramp")
    parser.add_argument("--resolution", type=float, default=0.06, help="of a capacity")
    parser.add_argument("--seed", type=int, default=SEED)
