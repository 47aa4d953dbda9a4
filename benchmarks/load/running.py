"""What every load test is told, and what it starts: a server, and users for it."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.load.campaign import Campaign, Load, Times
from benchmarks.load.fleet import Fleet, Server
from benchmarks.load.peers import (
    HOST_KV_GIB,
    OFFLOAD_PEER,
    PEERS,
    is_predictable,
    speculation,
)
from benchmarks.load.servers import VllmServer, vllm_options, wisp_server
from benchmarks.load.target import OWN_SHAPES, config
from benchmarks.load.worker import Population, Setting
from benchmarks.shapes import SHAPES
from benchmarks.sim.profiles import CELLULAR, DEVICES, WIFI, WIRED, Network
from benchmarks.sim.workload import SHARE_GPT, Lengths, Workload

SEED = 1  # of everything drawn at random here; chosen: any number does, and one makes it repeatable


@contextlib.contextmanager
def running(
    options: argparse.Namespace,
    folder: Path,
    *,
    part: str,
    csv: Path | None = None,
    end_s: float = math.inf,
    flags: Sequence[str] = (),
    acceptance: float = 0.7,
    baseline: dict[Load, float] | None = None,
) -> Iterator[Campaign]:
    """A server and a fleet; `folder` is for the server's log and its target.

    `part`: one of `benchmarks.load.peers.PEERS`, or a name for wisp-server with `flags`.
    `acceptance`: of a peer's own drafts, which it is started with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = part in PEERS
    engine_options = vllm_options(
        options.kv_tokens, shape=options.shape, tensor_parallel=options.tensor_parallel
    ) | json.loads(options.engine_options)
    size = {"shape": options.shape, "options": engine_options}
    on_torch = options.engine == "torch" and not plain  # which reserves KV for all of them
    size["max_sessions"] = options.max_sessions or (64 if on_torch else 512)
    grpc: str | None = None
    with contextlib.ExitStack() as stack:
        if options.engine_url:
            server = Server(options.engine_url)
        elif plain:
            vllm = stack.enter_context(
                VllmServer(
                    folder,
                    speculation=speculation(part, options.shape, acceptance, folder),
                    predictable=is_predictable(part),
                    host_kv_gib=HOST_KV_GIB if part == OFFLOAD_PEER else 0,
                    **size,
                )
            )
            server = Server(vllm.url, vllm.alive)
        else:
            starting = wisp_server(
                folder,
                engine=options.engine,
                profile_s=options.profile_s,
                flags=[*flags, *options.server_flag],
                host_parts=folder / "host_parts.json" if options.host_parts else None,
                **size,
            )
            process = stack.enter_context(starting)
            grpc = f"127.0.0.1:{process.facts['grpc']}"
            server = Server(process.url, process.alive)
        fleet = stack.enter_context(Fleet(fleet_setting(options, grpc, server), options.workers))
        yield Campaign(
            fleet,
            server,
            Times(options.warm_s, options.measure_s, options.join_s),
            part=part,
            plain=plain or options.no_edges,
            path=csv,
            num_clients=options.clients,
            end_s=end_s,
            baseline=baseline,
        )


def fleet_setting(options: argparse.Namespace, grpc: str | None, server: Server) -> Setting:
    vocab_size = config(options.shape)["vocab_size"]
    return Setting(grpc=grpc, url=server.url, vocab_size=vocab_size, seed=options.seed)


def population(options: argparse.Namespace) -> Population:
    networks: tuple[Network, ...] = WIRED, WIFI, CELLULAR
    if options.round_trip_ms is not None:
        networks = (fixed(options.round_trip_ms),)
    devices = [each for each in DEVICES if options.device in (None, each.name)]
    prompt, output = Lengths(options.prompt_tokens), Lengths(options.output_tokens)
    return Population(tuple(devices), networks, Workload(prompt, output, options.think_s))


def fixed(round_trip_ms: float) -> Network:
    """A network that always takes the same time, and loses nothing."""
    return Network("fixed", round_trip_ms / 1000, 0.0, 0.0)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of every load test, the suite's too."""
    parser.add_argument("--shape", choices=[*OWN_SHAPES, *SHAPES], default="small")
    parser.add_argument("--engine", choices=["torch", "vllm"], default="torch")
    parser.add_argument("--kv-tokens", type=int, help="KV memory; default: what there is")
    parser.add_argument(
        "--tensor-parallel", type=int, default=1, metavar="GPUS", help="that share a target, vLLM"
    )
    parser.add_argument(
        "--engine-options", default="{}", help="more engine arguments of vLLM's, as JSON"
    )
    parser.add_argument(
        "--max-sessions", type=int, help="open at the server at once; default: 512, torch 64"
    )
    parser.add_argument("--profile-s", type=float, help="of the estimator, before the first load")
    parser.add_argument("--server-flag", action="append", default=[], help="for wisp-server, as is")
    parser.add_argument(
        "--host-parts",
        action="store_true",
        help="write what the host did between steps beside the server's log, as it ends",
    )
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--no-edges", action="store_true", help="all users are HTTP clients")
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
