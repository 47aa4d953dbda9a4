"""The noisy argmax of many rows in one pass on a GPU (Triton): no noise ever lies in memory.

The torch form, `(scores + gumbel_torch(...)).argmax(-1)`, is its definition and the oracle of its
test. Imported by `wisp.sampling.choice` only when the logits are on a GPU.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Groups of four tokens (the four words of a Philox block) in one Triton program. Chosen: a
# vocabulary of 151,936 makes 75 programs for each row; no measurement stands behind the number.
_GROUPS = 512


def noisy_argmax(scores: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    """int64 [rows]: argmax of scores (float32 [rows, vocab]) plus the noise of (seed, position).

    seeds: int64 [rows] (see `wisp.sampling.philox.signed`), positions: int64 [rows]. The lowest id
    wins a tie.
    """
    num_rows, num_tokens = scores.shape
    num_parts = triton.cdiv(num_tokens, 4 * _GROUPS)
    best = scores.new_empty(num_rows, num_parts)
    tokens = torch.empty(num_rows, num_parts, dtype=torch.int64, device=scores.device)
    _part[(num_rows, num_parts)](
        scores, seeds, positions, best, tokens, num_tokens, scores.stride(0), GROUPS=_GROUPS
    )
    return tokens.gather(1, best.argmax(dim=1, keepdim=True))[:, 0]


@triton.jit
def _part(scores, seeds, positions, best, tokens, num_tokens, stride, GROUPS: tl.constexpr):
    """The best token of one row within one part of the vocabulary."""
    row, part = tl.program_id(0), tl.program_id(1)
    group = part * GROUPS + tl.arange(0, GROUPS)
    zero = tl.zeros([GROUPS], tl.uint32)
    position = zero + tl.load(positions + row).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(tl.load(seeds + row), group.to(tl.uint32), position, zero, zero)
    top = tl.full([GROUPS], float("-inf"), tl.float32)
    token = 4 * group
    line = scores + row * stride
    top, token = _better(top, token, w0, line, 4 * group, num_tokens)
    top, token = _better(top, token, w1, line, 4 * group + 1, num_tokens)
    top, token = _better(top, token, w2, line, 4 * group + 2, num_tokens)
    top, token = _better(top, token, w3, line, 4 * group + 3, num_tokens)
    most = tl.max(top, 0)
    lowest = tl.min(tl.where(top == most, token, num_tokens), 0)
    place = row * tl.num_programs(1) + part
    tl.store(best + place, most)
    tl.store(tokens + place, lowest.to(tl.int64))


@triton.jit
def _better(top, token, word, line, index, num_tokens):
    """Of the best so far and the tokens at `index`, whose noise comes from `word`."""
    score = tl.load(line + index, mask=index < num_tokens, other=float("-inf"))
    u = ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07  # 2^-23
    score = score - tl.log(-tl.log(u))
    better = score > top
    return tl.where(better, score, top), tl.where(better, index, token)
