"""The own drafter's passes on a CPU as if they were CUDA graphs: of buffers that stay in place.

What a graph would read on the device is read when it is replayed, for as many tokens and requests
as it was captured for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SIZES = (8, 16, 48, 128, 512)
CHAINED = 1  # of these: so that passes of more requests have no graph for what is between them


class _Graph:
    def __init__(self, passes: Any, size: int, hidden: tuple[Tensor, Tensor]) -> None:
        self._passes, self._size, self._hidden = passes, size, hidden
        self._metadata = passes.metadata(size)

    def replay(self) -> None:
        metadata = self._metadata
        _tell_host(metadata)
        for kept, found in zip(
            self._hidden, self._passes.forward(metadata, self._size), strict=True
        ):
            kept.copy_(found)
        self._passes.num_replayed += 1


class _Chain:
    def __init__(self, chain: Any, passes: Any, size: int) -> None:
        self._chain, self._passes, self._size = chain, passes, size
        self._metadata = passes.metadata(size)

    def replay(self) -> None:
        self._chain.advance(self._metadata, self._size)
        _tell_host(self._metadata)
        self._chain.compute(self._metadata, self._size)
        self._passes.num_chained += 1


def _tell_host(metadata: Any) -> None:
    metadata.query_start_loc_cpu = metadata.query_start_loc.clone()
    metadata.seq_lens_cpu_upper_bound = metadata.seq_lens.clone()


def install(worker: Any) -> None:
    """In the worker's process."""
    passes, chain = worker.wisp_chooser.own.passes, worker.wisp_chooser.own.chain
    passes.make_buffers()
    chain.make_buffers()
    passes.num_chained = 0
    passes.num_replayed = 0
    width = worker.model_runner.drafter.hidden_size
    with torch.inference_mode():
        for size in SIZES:
            hidden = torch.zeros(size, width), torch.zeros(size, width)
            passes.graphs[size] = _Graph(passes, size, hidden), hidden
        for size in SIZES[:CHAINED]:
            chain.graphs[size] = _Chain(chain, passes, size)
    passes.sizes = list(SIZES)


def remove(worker: Any) -> tuple[int, int]:
    """Returns how many passes were replayed, of those that are more than the model and others."""
    passes = worker.wisp_chooser.own.passes
    passes.graphs.clear()
    worker.wisp_chooser.own.chain.graphs.clear()
    passes.sizes = []
    return passes.num_chained, passes.num_replayed
