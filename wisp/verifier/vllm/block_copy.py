"""KV blocks to and from pinned host memory in one launch (Triton): the GPU reads and writes there.

A block lies in as many pieces as there are layers, twice that where keys and values lie apart. One
copy engine call for each of them keeps the host busy for longer than the copies take
(docs/measurements/parking.md). Imported by `wisp.verifier.vllm.host_kv` only on a GPU.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

# Programs that share the pieces among them, and 8-byte words that each has under way at once. More
# copy hardly faster, and slow the step beside them: docs/measurements/parking.md.
OUT, BACK = (4, 1024), (8, 2048)


def copy_blocks(moves: Tensor, pieces: Tensor, slots: int, slot_bytes: int, *, out: bool) -> None:
    """Asynchronous, in the current stream.

    moves: int64 [n, 2] of blocks and slots. pieces: int64 [pieces, 4] of each piece's address in
    block 0, bytes from block to block, place in a slot, and size; all are multiples of 8 bytes.
    slots: address of slot 0. out: from blocks to slots, else back.
    """
    num_pieces = len(pieces)
    count = len(moves) * num_pieces
    programs, words = OUT if out else BACK
    grid = (min(programs, count),)
    _copy[grid](moves, pieces, slots, slot_bytes, count, num_pieces, LEAVES=out, WORDS=words)


@triton.jit(do_not_specialize=["count"])
def _copy(
    moves, pieces, slots, slot_bytes, count, num_pieces, LEAVES: tl.constexpr, WORDS: tl.constexpr
):
    for index in range(tl.program_id(0), count, tl.num_programs(0)):
        move = moves + 2 * (index // num_pieces)
        piece = pieces + 4 * (index % num_pieces)
        block = tl.load(piece) + tl.load(move) * tl.load(piece + 1)
        slot = slots + tl.load(move + 1) * slot_bytes + tl.load(piece + 2)
        source = (block if LEAVES else slot).to(tl.pointer_type(tl.int64))
        target = (slot if LEAVES else block).to(tl.pointer_type(tl.int64))
        num_words = tl.load(piece + 3) // 8
        for start in range(0, num_words, WORDS):
            words = start + tl.arange(0, WORDS)
            inside = words < num_words
            tl.store(target + words, tl.load(source + words, mask=inside), mask=inside)
