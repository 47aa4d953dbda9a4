"""The cost of the choice on a GPU: the fused kernel beside the torch form that defines it.

python -m benchmarks.choice [--rows 640] [--vocab 151936] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wisp.sampling.fused import noisy_argmax
from wisp.sampling.philox import gumbel_torch

SEED = 3  # of everything drawn at random here; chosen: any number does, and one makes it repeatable
CHUNK = 64  # rows of the torch form at once: its words take 32 bytes a token


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=640, help="sessions * (drafts + 1)")
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    generator = torch.Generator("cuda").manual_seed(SEED)
    scores = 5 * torch.randn(options.rows, options.vocab, device="cuda", generator=generator)
    seeds = torch.arange(options.rows, device="cuda") * 0x1E3779B97F4A7C15
    positions = torch.arange(options.rows, device="cuda") + 1000

    def torch_form() -> Tensor:
        chosen = []
        for first in range(0, options.rows, CHUNK):
            part = slice(first, first + CHUNK)
            noise = gumbel_torch(seeds[part], positions[part], options.vocab)
            chosen.append((scores[part] + noise).argmax(-1))
        return torch.cat(chosen)

    result = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "seed": SEED,
        "rows": options.rows,
        "vocab": options.vocab,
        "equal_choices": (torch_form() == noisy_argmax(scores, seeds, positions))
        .float()
        .mean()
        .item(),
        "fused_ms": _median_ms(lambda: noisy_argmax(scores, seeds, positions)),
        "torch_ms": _median_ms(torch_form),
        "argmax_alone_ms": _median_ms(lambda: scores.argmax(-1)),
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(", ".join(f"{name} {value}" for name, value in result.items()))


def _median_ms(work: Callable[[], Tensor], times: int = 20) -> float:
    """By the GPU's own clock."""
    found: list[float] = []
    for _ in range(times + 3):
        start: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record()
        work()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end))
    return round(statistics.median(found[3:]), 3)


if __name__ == "__main__":
    main()
