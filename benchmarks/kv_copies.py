"""What it takes to copy KV blocks between a GPU and pinned host memory, as parking does.

    python -m benchmarks.kv_copies [--layers 64] [--blocks 1,4,21,64,256] [--json]
    python -m benchmarks.kv_copies --programs 4 8 16 32 --words 1024 4096 [--json]

Blocks of 16 tokens, 8 KV heads of 128 elements in bfloat16, as a 32B target has them: 4 MiB in 64
layers. `host_ms` is the time until the call returns, `all_ms` until the copies are made; medians.

With `--programs` the copying kernel has so many programs, each on a multiprocessor of its own, and
so many words under way in each. `slower` is the share of its speed that a stream of products of
matrices, as steps that decode are made of, loses while these copies run beside it.

On the CPU the copies are another code path, and the times are its own.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any

import torch

from benchmarks.setting import setting, tell
from wisp.verifier.vllm.host_kv import HostKv

SEED = 7  # of which blocks are copied; chosen: any number does, and one makes it repeatable
NUM_BLOCKS, TIMES = 1500, 20  # 1,500 blocks hold 24,000 tokens; chosen: enough for a median


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=64)
    parser.add_argument("--blocks", default="1,4,21,64,256", help="copied at once")
    parser.add_argument("--programs", type=int, nargs="+", help="of the copying kernel, on a GPU")
    parser.add_argument("--words", type=int, nargs="+", default=[1024], help="of 8 bytes, in each")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = 2, NUM_BLOCKS, 16, 8, 128
    caches = [
        torch.zeros(shape, dtype=torch.bfloat16, device=device) for _ in range(options.layers)
    ]
    block_bytes = sum(cache.nbytes for cache in caches) // NUM_BLOCKS
    counts = [int(each) for each in options.blocks.split(",")]
    host = HostKv(caches, NUM_BLOCKS, max(counts))
    if options.programs:
        rows = list(_kernels(host, max(counts), block_bytes, options.programs, options.words))
    else:
        rows = [row for count in counts for row in _rows(host, count, block_bytes)]
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    found = setting(SEED, device=name, layers=options.layers)
    tell(found, rows, as_json=options.json)


def _kernels(
    host: HostKv, count: int, block_bytes: int, programs: list[int], words: list[int]
) -> Iterator[dict[str, Any]]:
    """A row for each way and size of the kernel, with what it takes from a step beside it."""
    from wisp.verifier.vllm import block_copy

    products = Products()
    alone_s = products.time_s(lambda: None)
    pairs = [(block, block) for block in range(count)]
    ways: dict[str, Any] = {"out": (pairs, []), "back": ([], pairs), "both": (pairs, pairs)}
    for size in itertools.product(programs, words):
        block_copy.OUT = block_copy.BACK = size
        for row in _rows(host, count, block_bytes):
            copy = partial(host.move, *ways[row["way"]], after_step=False)
            beside_s = products.time_s(copy)
            copied_s = min(row["all_ms"] / 1e3, beside_s)
            about = {"programs": size[0], "words": size[1]}
            yield about | row | {"slower": round((beside_s - alone_s) / copied_s, 3)}


class Products:
    """Of matrices, one after the other: they read 67 GB of weights, as a step of a 32B target."""

    def __init__(self) -> None:
        self._weights = [
            torch.zeros(5120, 25_600, dtype=torch.bfloat16, device="cuda") for _ in range(8)
        ]
        self._rows = torch.zeros(64, 5120, dtype=torch.bfloat16, device="cuda")
        self._copying = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def time_s(self, beside: Callable[[], None]) -> float:
        """Median; `beside` is called as they begin."""
        found: list[float] = []
        for _ in range(TIMES // 2):
            torch.cuda.synchronize()
            begun, ended = _event(), _event()
            begun.record()
            with torch.cuda.stream(self._copying):  # waits for copies; these here do not
                beside()
            for weights in self._weights * 32:
                torch.mm(self._rows, weights)
            ended.record()
            torch.cuda.synchronize()
            found.append(float(begun.elapsed_time(ended)) / 1e3)
        return statistics.median(found)


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _rows(host: HostKv, count: int, block_bytes: int) -> list[dict[str, Any]]:
    blocks = Random(SEED).sample(range(NUM_BLOCKS), count)
    out = list(zip(blocks, range(count), strict=True))
    back = [(slot, block) for block, slot in out]
    rows = []
    for way, moves in {"out": (out, []), "back": ([], back), "both": (out, back)}.items():
        host_s, all_s = [], []
        for _ in range(TIMES + 2):
            start_s = time.perf_counter()
            host.move(*moves, after_step=False)
            host_s.append(time.perf_counter() - start_s)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            all_s.append(time.perf_counter() - start_s)
        num_bytes = count * block_bytes * (2 if way == "both" else 1)
        taken_s = statistics.median(all_s[2:])
        rows.append(
            {
                "way": way,
                "blocks": count,
                "mib": num_bytes >> 20,
                "host_ms": round(1e3 * statistics.median(host_s[2:]), 3),
                "all_ms": round(1e3 * taken_s, 3),
                "gb_per_s": round(num_bytes / taken_s / 1e9, 1),
            }
        )
    return rows


if __name__ == "__main__":
    main()
