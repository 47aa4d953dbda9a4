"""An edge against plain decoding by the server, at several distances between the two.

    python -m benchmarks.distance [--json] [--policy wisp] [--requests 16] [--temperature 0]
        [--max-forks 8] [--compare] [--round-trips-ms 0 20 80] [--pair tiny] [--tokens 96]

Real processes: a wisp-server, a proxy that makes the round trip longer, a wisp-edge. Each held-out
prompt runs twice through the edge, with drafts and without (in turns, so that other work on the
machine hits both alike). With `--compare` there is a second server that takes no forks, with an
edge of its own, and each prompt runs there as well.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import httpx
from rich.progress import track

from benchmarks.delay import Delay
from benchmarks.setting import describe, setting
from wisp.demo.pairs import PairName, find_pair
from wisp.launch import Process

SEED = 7  # of everything drawn at random here; chosen: any number does, and one makes it repeatable
MAX_TOKENS = 96
ROUND_TRIPS_MS = (0.0, 20.0, 80.0)
NUM_WARM = 2  # requests before the clock counts
COUNTS = ("rejections", "covered_rejections", "avoided_stalls", "drafted_tokens", "accepted_tokens")


class Sums:
    """Over the requests of one kind."""

    def __init__(self) -> None:
        self.tokens = self.steps = 0
        self.counts = dict.fromkeys(COUNTS, 0)
        self.time_s = 0.0

    def add(self, usage: dict[str, Any], time_s: float) -> None:
        self.tokens += usage["completion_tokens"]
        self.time_s += time_s
        self.steps += usage["wisp"]["steps"]
        for name in COUNTS:
            self.counts[name] += usage["wisp"][name]

    @property
    def rate(self) -> float:
        return self.tokens / self.time_s


def ask(
    edge: Process,
    model: str,
    prompt: dict[str, str],
    drafts: bool,
    temperature: float,
    tokens: int,
) -> tuple[Any, float]:
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": tokens,
        "seed": SEED,
        "temperature": temperature,
        "wisp": {"speculation": drafts},
    }
    if prompt["kind"] == "text":
        path, body["prompt"] = "completions", prompt["prompt"]
    else:
        path, body["messages"] = "chat/completions", [{"role": "user", "content": prompt["prompt"]}]
    start_s = time.perf_counter()
    answer = httpx.post(f"{edge.url}/v1/{path}", json=body, timeout=120).raise_for_status()
    return answer.json()["usage"], time.perf_counter() - start_s


def measure(
    servers: dict[str, Process],
    round_trip_s: float,
    prompts: list[dict[str, str]],
    draft: Path,
    temperature: float,
    tokens: int,
    folder: Path,
) -> dict[str, Any]:
    """`servers`: by what they are to be called; the first one's figures come plain."""
    sums = {(name, drafts): Sums() for name in servers for drafts in (True, False)}
    with ExitStack() as stack:
        edges = {}
        for name, server in servers.items():
            far = stack.enter_context(Delay(f"127.0.0.1:{server.facts['grpc']}", round_trip_s))
            # Its device is meant to be another one, whose cores are its own.
            options = (f"--server={far.address}", "--http.port=0", "--power.min_chance=0.02")
            log = folder / f"edge-{name}.log"
            edge = Process("edge", f"--draft={draft}", *options, log=log)
            edges[name] = stack.enter_context(edge)
        bar = f"round trip {1000 * round_trip_s:.0f} ms"
        for index, prompt in enumerate(track(prompts, description=bar, transient=True)):
            kinds = list(sums)
            for kind in kinds[index % len(kinds) :] + kinds[: index % len(kinds)]:
                name, drafts = kind
                usage, time_s = ask(
                    edges[name], servers[name].facts["model"], prompt, drafts, temperature, tokens
                )
                if index >= NUM_WARM:
                    sums[kind].add(usage, time_s)
    found = {name: _figures(sums[name, True], sums[name, False]) for name in servers}
    first, *others = found
    row: dict[str, Any] = {"round_trip_ms": 1000 * round_trip_s, **found[first]}
    for other in others:
        row[other] = found[other]
        row[f"over_{other}"] = found[first]["tokens_per_s"] / found[other]["tokens_per_s"]
    return row


def chosen(prompts: Sequence[dict[str, str]], num: int) -> list[dict[str, str]]:
    """The first texts; of a pair that only answers questions, some of each kind in turn."""
    if texts := [prompt for prompt in prompts if prompt["kind"] == "text"]:
        return texts[:num]
    return [prompts[index * len(prompts) // num] for index in range(num)]


def _figures(drafted: Sums, plain: Sums) -> dict[str, float]:
    counts = drafted.counts
    return {
        "tokens_per_s": drafted.rate,
        "plain_tokens_per_s": plain.rate,
        "ratio": drafted.rate / plain.rate,
        "tokens_per_step": drafted.tokens / drafted.steps,
        "acceptance": counts["accepted_tokens"] / max(1, counts["drafted_tokens"]),
        "covered": counts["covered_rejections"] / max(1, counts["rejections"]),
        "seamless": counts["avoided_stalls"] / max(1, counts["rejections"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--policy", default="wisp", help="of the server")
    parser.add_argument("--requests", type=int, default=16, help="pairs at each distance")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--round-trips-ms", type=float, nargs="+", default=ROUND_TRIPS_MS)
    parser.add_argument("--max-forks", type=int, default=8, help="that the server takes")
    parser.add_argument("--compare", action="store_true", help="with a server that takes none")
    parser.add_argument("--pair", default="tiny", choices=get_args(PairName))
    parser.add_argument("--tokens", type=int, default=MAX_TOKENS, help="of an answer at most")
    options = parser.parse_args()
    pair = find_pair(options.pair, print)
    prompts = chosen(pair.prompts, options.requests + NUM_WARM)
    forks = {"forks": options.max_forks}
    if options.compare:
        forks["without"] = 0
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        flags = ["--http.port=0", "--grpc.port=0", f"--scheduling.policy={options.policy}"]
        flags += [f"--target={pair.target}", *pair.server_flags]
        servers = {
            name: stack.enter_context(
                Process(
                    "server",
                    *flags,
                    f"--speculation.max_forks={max_forks}",
                    f"--estimator.state_dir={folder / name}",
                )
            )
            for name, max_forks in forks.items()
        }
        rows = [
            measure(
                servers,
                round_trip_s,
                prompts,
                pair.draft,
                options.temperature,
                options.tokens,
                folder,
            )
            for round_trip_s in [each / 1000 for each in options.round_trips_ms]
        ]
    about = setting(
        SEED,
        policy=options.policy,
        temperature=options.temperature,
        max_tokens=options.tokens,
        pair=pair.name,
        max_forks=options.max_forks,
    )
    for row in rows:
        row["of_near"] = row["tokens_per_s"] / rows[0]["tokens_per_s"]
    if options.json:
        print(json.dumps({"setting": about, "rows": rows}))
        return
    print(describe(about))
    for row in rows:
        print(
            f"{row['round_trip_ms']:.0f} ms: {row['tokens_per_s']:.1f} tokens/s with drafts "
            f"({row['tokens_per_step']:.2f} a step), {row['plain_tokens_per_s']:.1f} "
            f"without: {row['ratio']:.2f} x; {row['of_near']:.2f} of 0 ms; rejections covered "
            f"{row['covered']:.2f}, without a pause {row['seamless']:.2f}"
        )
        if options.compare:
            other = row["without"]
            print(
                f"  without forks {other['tokens_per_s']:.1f} ({other['ratio']:.2f} x its plain "
                f"decoding): forks bring {row['over_without']:.2f} x"
            )


if __name__ == "__main__":
    main()
