"""What batching is worth: one step with 16 sessions against 16 steps with one.

    python -m benchmarks.batching [--json] [--target DIR] [--cpu-time] [--context 128]
                                  [--prompt 512]

On a machine that others use as well, `--cpu-time` counts the time of this process alone.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.setting import describe, setting
from wisp.models.slots import Item, SlotModel

TARGET = Path(__file__).parents[1] / "wisp/models/tiny/target"
NUM_SESSIONS = 16
# Tokens of a prompt in one forward; chosen: what an edge's drafter and a server's step take.
CHUNK = 512
SEED = 0  # of everything drawn at random here; chosen: any number does, and one makes it repeatable


Clock = Callable[[], float]


def median_s(function: Callable[[], object], clock: Clock, repeats: int = 9) -> float:
    function()
    times = []
    for _ in range(repeats):
        start_s = clock()
        function()
        times.append(clock() - start_s)
    return statistics.median(times)


def measure(model: SlotModel, k: int, context: int, clock: Clock) -> dict[str, float]:
    """Times of a step in which each session verifies k draft tokens behind `context` others."""
    rng = random.Random(SEED)
    texts = [rng.choices(range(model.vocab_size), k=context + k) for _ in range(NUM_SESSIONS)]
    for slot, tokens in enumerate(texts):
        prefill(model, tokens, slot)
    start = context - 1
    items = [Item(slot, start, tokens[start:], k + 1) for slot, tokens in enumerate(texts)]
    together_s = median_s(lambda: model.forward(items), clock)
    singly_s = median_s(lambda: [model.forward([item]) for item in items], clock, repeats=5)
    return {
        "k": k,
        "together_s": together_s,
        "singly_s": singly_s,
        "one_s": singly_s / NUM_SESSIONS,
        "ratio": together_s / singly_s,
    }


def prefill(model: SlotModel, tokens: list[int], slot: int = 0) -> None:
    for start in range(0, len(tokens), CHUNK):
        model.forward([Item(slot, start, tokens[start : start + CHUNK], 0)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=TARGET)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=128, help="tokens of a session")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt computed")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    max_len = max(2 * options.context, options.prompt)
    model = SlotModel(options.target, NUM_SESSIONS, max_len, num_threads=options.threads)
    values = setting(
        SEED,
        threads=options.threads,
        target=str(options.target),
        sessions=NUM_SESSIONS,
        context=options.context,
        clock="CPU" if options.cpu_time else "wall",
    )
    results = [measure(model, k, options.context, clock) for k in (0, 4)]
    prompt = random.Random(SEED).choices(range(model.vocab_size), k=options.prompt)
    prompt_s = median_s(lambda: prefill(model, prompt), clock, repeats=5)
    if options.json:
        print(json.dumps({"setting": values, "results": results, "prompt_s": prompt_s}, indent=2))
        return
    print(describe(values))
    for r in results:
        print(
            f"k={r['k']:.0f}: together {r['together_s'] * 1e3:.1f} ms, "
            f"singly {r['singly_s'] * 1e3:.1f} ms ({r['one_s'] * 1e3:.1f} ms each), "
            f"ratio {r['ratio']:.3f}"
        )
    print(f"a prompt of {options.prompt} tokens: {prompt_s * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
