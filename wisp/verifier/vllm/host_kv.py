"""KV blocks in host memory, as a worker of vLLM has them. One copy call moves all that is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Moves = Sequence[tuple[int, int]]  # from a block to a host slot, or from a host slot to a block


class HostKv:
    """Numbered slots, each for one block of all layers: [slot][layer].

    Copies run in a stream of their own beside the step that is launched: whoever parks and loads
    touches no block that this step reads or writes. What is launched behind them waits for them.
    """

    def __init__(self, kv_caches: Sequence[Tensor], num_blocks: int, num_slots: int) -> None:
        """`kv_caches`: one for each layer, [blocks, ...] or [2, blocks, ...]."""
        self._pieces = [p for cache in kv_caches for p in pieces(cache, num_blocks)]
        ends = torch.tensor([piece.shape[1] for piece in self._pieces]).cumsum(0)
        self._ends: list[int] = ends.tolist()
        self._slots = torch.empty(num_slots, self._ends[-1], dtype=torch.uint8)
        self._on_gpu = kv_caches[0].is_cuda
        if self._on_gpu:
            _pin(self._slots)
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            places = [
                (piece.data_ptr(), piece.stride(0), end - piece.shape[1], piece.shape[1])
                for piece, end in zip(self._pieces, self._ends, strict=True)
            ]
            self._places = torch.tensor(places, device=kv_caches[0].device)
            self.move([(0, 0)], [(0, 0)], after_step=False)  # compiles, and changes nothing

    def move(self, out: Moves, back: Moves, *, after_step: bool) -> None:
        """Blocks out to slots, then slots back to blocks; what leaves may make room for the others.

        `after_step`: the step in flight may write to one of these blocks.
        """
        if not self._on_gpu:
            self._copy(out, back)
            return
        running = torch.cuda.current_stream()
        if after_step:
            self._stream.wait_stream(running)
        with torch.cuda.stream(self._stream):
            self._copy_at_once(out, out=True)
            self._copy_at_once([move[::-1] for move in back], out=False)
        running.wait_stream(self._stream)

    def _copy(self, out: Moves, back: Moves) -> None:
        for blocks, slots in [_columns(out)] if out else []:
            for piece, end in zip(self._pieces, self._ends, strict=True):
                self._slots[slots, end - piece.shape[1] : end] = piece[blocks]
        for slots, blocks in [_columns(back)] if back else []:
            for piece, end in zip(self._pieces, self._ends, strict=True):
                piece[blocks] = self._slots[slots, end - piece.shape[1] : end]

    def _copy_at_once(self, moves: Moves, *, out: bool) -> None:
        """`moves`: of blocks and slots."""
        from wisp.verifier.vllm.block_copy import copy_blocks  # compiled for a GPU alone

        if moves:
            pairs = torch.tensor(moves).to(self._places.device, non_blocking=True)
            address, size = self._slots.data_ptr(), self._slots.stride(0)
            copy_blocks(pairs, self._places, address, size, out=out)


def pieces(cache: Tensor, num_blocks: int) -> list[Tensor]:
    """What a layer holds for each block, as bytes that lie together: [blocks, bytes] each.

    Raises ValueError if they do not, or if this is no tensor of blocks.
    """
    parts = [cache] if cache.shape[0] == num_blocks else list(cache.unbind())
    found = []
    for part in parts:
        if part.shape[0] != num_blocks:
            raise ValueError(f"KV of shape {list(cache.shape)} is not made of {num_blocks} blocks")
        num_bytes = part[0].numel() * part.element_size()
        if num_bytes % 8:
            raise ValueError(f"a block of {num_bytes} bytes is not copied in words of 8")
        spread = sum((n - 1) * s for n, s in zip(part.shape[1:], part.stride()[1:], strict=True))
        if (spread + 1) * part.element_size() != num_bytes:
            raise ValueError(f"KV of shape {list(cache.shape)} does not keep a block together")
        storage = torch.empty(0, dtype=torch.uint8, device=part.device)
        storage.set_(part.untyped_storage())
        size, stride = (num_blocks, num_bytes), (part.stride(0) * part.element_size(), 1)
        found.append(storage.as_strided(size, stride, part.storage_offset() * part.element_size()))
    return found


def _columns(moves: Moves) -> tuple[Tensor, Tensor]:
    first, second = torch.tensor(list(moves)).unbind(1)
    return first, second


def _pin(memory: Tensor) -> None:
    """Raises RuntimeError. Pinned as it is: torch's allocator rounds up to a power of two."""
    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    code = runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)
    if int(code) != 0:
        raise RuntimeError(f"{memory.nbytes >> 20} MiB of host memory cannot be pinned: {code}")
