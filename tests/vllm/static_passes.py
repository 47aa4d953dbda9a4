"""The own drafter's passes on a CPU as if they were CUDA graphs: of buffers that stay in place.

What a graph would read on the device is read when it is replayed, for as many tokens and requests
as it was captured for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SIZES = (8, 16, 48, 128, 512)


class _Graph:
    def __init__(self, passes: Any, size: int, hidden: tuple[Tensor, Tensor]) -> None:
        self._passes, self._size, self._hidden = passes, size, hidden
        self._metadata = passes.metadata(size)

    def replay(self) -> None:
        metadata = self._metadata
        metadata.query_start_loc_cpu = metadata.query_start_loc.clone()
        metadata.seq_lens_cpu_upper_bound = metadata.seq_lens.clone()
        for kept, found in zip(
            self._hidden, self._passes.forward(metadata, self._size), strict=True
        ):
            kept.copy_(found)
        self._passes.num_replayed += 1


def install(worker: Any) -> None:
    """In the worker's process."""
    passes = worker.wisp_chooser.own.passes
    passes.make_buffers()
    passes.num_replayed = 0
    width = worker.model_runner.drafter.hidden_size
    with torch.inference_mode():
        for size in SIZES:
            hidden = torch.zeros(size, width), torch.zeros(size, width)
            passes.graphs[size] = _Graph(passes, size, hidden), hidden
    passes.sizes = list(SIZES)


def remove(worker: Any) -> int:
    """Returns how many passes were replayed."""
    passes = worker.wisp_chooser.own.passes
    passes.graphs.clear()
    passes.sizes = []
    return int(passes.num_replayed)
