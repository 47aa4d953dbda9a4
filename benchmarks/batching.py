"""What batching is worth: one step with 16 sessions against 16 steps with one.

python -m benchmarks.batching [--json] [--target DIR]
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
CONTEXT = 128
SEED = 0  # of everything drawn at random here; chosen: any number does, and one makes it repeatable


def median_s(function: Callable[[], object], repeats: int = 9) -> float:
    function()
    times = []
    for _ in range(repeats):
        start_s = time.perf_counter()
        function()
        times.append(time.perf_counter() - start_s)
    return statistics.median(times)


def measure(model: SlotModel, k: int) -> dict[str, float]:
    """Times of a step in which each session verifies k draft tokens behind CONTEXT others."""
    rng = random.Random(SEED)
    texts = [rng.choices(range(model.vocab_size), k=CONTEXT + k) for _ in range(NUM_SESSIONS)]
    for slot, tokens in enumerate(texts):
        model.forward([Item(slot, 0, tokens, 0)])
    start = CONTEXT - 1
    items = [Item(slot, start, tokens[start:], k + 1) for slot, tokens in enumerate(texts)]
    together_s = median_s(lambda: model.forward(items))
    singly_s = median_s(lambda: [model.forward([item]) for item in items], repeats=5)
    return {
        "k": k,
        "together_s": together_s,
        "singly_s": singly_s,
        "one_s": singly_s / NUM_SESSIONS,
        "ratio": together_s / singly_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=TARGET)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model = SlotModel(options.target, NUM_SESSIONS, 2 * CONTEXT, num_threads=options.threads)
    values = setting(
        SEED,
        threads=options.threads,
        target=str(options.target),
        sessions=NUM_SESSIONS,
        context=CONTEXT,
    )
    results = [measure(model, k) for k in (0, 4)]
    if options.json:
        print(json.dumps({"setting": values, "results": results}, indent=2))
        return
    print(describe(values))
    for r in results:
        print(
            f"k={r['k']:.0f}: together {r['together_s'] * 1e3:.1f} ms, "
            f"singly {r['singly_s'] * 1e3:.1f} ms ({r['one_s'] * 1e3:.1f} ms each), "
            f"ratio {r['ratio']:.3f}"
        )


if __name__ == "__main__":
    main()
