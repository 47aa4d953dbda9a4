"""This checkout's models against those of another one: forwards in turn, in one process.

    python -m benchmarks.against CHECKOUT [--target DIR] [--sessions 16] [--context 128]
                                 [--prompt 512] [--threads 1] [--seconds 20]

What other programs on the machine take then falls on both alike, so the ratio holds where times do
not: it is the median, over pairs of forwards, of this one's time over the other's. With one thread
it counts the time of this process alone.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from transformers import AttentionInterface

from benchmarks.batching import CHUNK, SEED, TARGET
from benchmarks.setting import describe, setting
from wisp.models import attention, slots
from wisp.models.slots import Item

Side = tuple[Any, Callable[..., Any]]  # a SlotModel and the attention function of its checkout
MIN_PAIRS = 5


def modules_of(checkout: Path) -> tuple[ModuleType, ModuleType]:
    """`slots` and `attention` of another checkout, beside this one's."""
    own = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("wisp")}
    sys.path.insert(0, str(checkout))
    try:
        other = importlib.import_module("wisp.models.slots")
        return other, importlib.import_module("wisp.models.attention")
    finally:
        sys.path.remove(str(checkout))
        for name in [name for name in sys.modules if name.startswith("wisp")]:
            del sys.modules[name]
        sys.modules.update(own)


def run(side: Side, forwards: Sequence[Sequence[Item]], clock: Callable[[], float]) -> float:
    model, attend = side
    AttentionInterface.register(attention.NAME, attend)  # both go by one name
    start_s = clock()
    for items in forwards:
        model.forward(items)
    return clock() - start_s


def prompt(tokens: list[int], slot: int = 0) -> list[list[Item]]:
    """The forwards that compute a prompt."""
    return [
        [Item(slot, start, tokens[start : start + CHUNK], 0)]
        for start in range(0, len(tokens), CHUNK)
    ]


def compare(
    sides: tuple[Side, Side], forwards: list[list[Item]], clock: Callable[[], float], seconds: float
) -> list[tuple[float, float]]:
    """Times of the other checkout and of this one, pair by pair."""
    pairs: list[tuple[float, float]] = []
    end_s = time.monotonic() + seconds
    while len(pairs) < MIN_PAIRS or time.monotonic() < end_s:
        order = (0, 1) if len(pairs) % 2 else (1, 0)
        times = {index: run(sides[index], forwards, clock) for index in order}
        pairs.append((times[0], times[1]))
    return pairs


def workloads(
    options: argparse.Namespace, texts: list[list[int]], vocab_size: int
) -> dict[str, list[list[Item]]]:
    start = options.context - 1
    found = {}
    for number in (options.sessions, 1):
        for k in (0, 4):
            found[f"sessions: {number}, k={k}"] = [
                [
                    Item(slot, start, text[start : start + k + 1], k + 1)
                    for slot, text in enumerate(texts[:number])
                ]
            ]
    tokens = random.Random(SEED).choices(range(vocab_size), k=options.prompt)
    return found | {f"a prompt of {options.prompt}": prompt(tokens)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--target", type=Path, default=TARGET)
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each workload")
    options = parser.parse_args()
    other_slots, other_attention = modules_of(options.checkout)
    max_len = max(options.context + 4, options.prompt)
    arguments = (options.target, options.sessions, max_len)
    AttentionInterface.register(attention.NAME, other_attention.attend)
    other = other_slots.SlotModel(*arguments, num_threads=options.threads)
    AttentionInterface.register(attention.NAME, attention.attend)
    own = slots.SlotModel(*arguments, num_threads=options.threads)
    sides: tuple[Side, Side] = ((other, other_attention.attend), (own, attention.attend))
    clock = time.process_time if options.threads == 1 else time.perf_counter
    rng = random.Random(SEED)
    texts = [
        rng.choices(range(own.vocab_size), k=options.context + 4) for _ in range(options.sessions)
    ]
    for side in sides:
        for slot, text in enumerate(texts):
            run(side, prompt(text, slot), clock)
    values = setting(SEED, **{k: str(v) for k, v in vars(options).items() if k != "checkout"})
    print(describe(values), flush=True)
    gc.disable()  # a collection would fall on one side
    for name, forwards in workloads(options, texts, own.vocab_size).items():
        pairs = compare(sides, forwards, clock, options.seconds)
        before_s, after_s = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(after / before for before, after in pairs)
        print(
            f"{name}: {before_s * 1e3:.1f} ms there, {after_s * 1e3:.1f} ms here, "
            f"ratio {ratio:.2f} of {len(pairs)} pairs",
            flush=True,
        )


if __name__ == "__main__":
    main()
