"""The likeliest choices of many rows of logits, found where the logits lie.

It is `wisp.sampling.draft.rank`, and what a proposal says beside it, for a drafter on a GPU: a row
of logits is a megabyte, and what is asked of it some dozen numbers.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wisp.core.extension import Ranking
from wisp.sampling.choice import moved
from wisp.sampling.draft import DEPTH, FEW, MAX_MISSED, SMALL
from wisp.sampling.philox import GREEDY_BELOW, gumbel_torch, signed

# Tokens that are found of each row. Chosen: those that a proposal names, and room for ties between
# logits of 16 bits, of which the lowest id is to win.
_NUM = 16
# A logit so far below the highest has no part in any sum. Chosen: its exponential is 0 in float32.
_LOWEST = 200.0


@torch.inference_mode()
def rank_rows(
    logits: Tensor,
    seeds: list[int],
    temperatures: list[float],
    positions: list[int],
    ids: Tensor | None = None,
    num: int = 4,
) -> Ranking:
    """logits: [n, vocab], of which `ids` [vocab] are the target's ids; None: the columns' numbers.

    A row with a temperature below `GREEDY_BELOW` has no noise. `num`: so many are asked for, the
    first of which are those of `rank`.
    """
    logits = logits.float()
    shifted = (logits - logits.amax(1, keepdim=True)).clamp_(min=-_LOWEST)
    mass = shifted.exp()
    total = mass.sum(1)
    plain = total.log() - (mass * shifted).sum(1) / total
    spread = logits.std(1, correction=0)
    noisy = [row for row, temperature in enumerate(temperatures) if temperature >= GREEDY_BELOW]
    scores, share_of, share_total, entropy = logits, mass, total, plain
    if noisy:
        scores = _noisy(logits, noisy, seeds, temperatures, positions, ids, num)
        share_of, share_total, entropy = _mass(scores, num)
        if len(noisy) < len(logits):
            is_noisy = torch.zeros(len(logits), dtype=torch.bool)
            is_noisy[noisy] = True
            is_noisy = is_noisy.to(logits.device)
            share_of = torch.where(is_noisy[:, None], share_of, mass)
            share_total = torch.where(is_noisy, share_total, total)
            entropy = torch.where(is_noisy, entropy, plain)
    top = scores.topk(min(_NUM, scores.shape[1]), dim=1)
    columns = top.indices
    parts = [
        top.values,
        share_of.gather(1, columns) / share_total[:, None],
        mass.gather(1, columns) / total[:, None],
        torch.stack([entropy, plain], 1).clamp_(min=0.0),
        spread[:, None],
    ]
    found = torch.cat(parts, 1).cpu().numpy()
    tokens = (columns if ids is None else ids[columns]).cpu().numpy()
    return _sorted(tokens, columns.cpu().numpy(), found)


def _noisy(
    logits: Tensor,
    noisy: list[int],
    seeds: list[int],
    temperatures: list[float],
    positions: list[int],
    ids: Tensor | None,
    num: int,
) -> Tensor:
    device, num_logits = logits.device, logits.shape[1]
    keys = moved(np.array([(signed(seeds[row]), positions[row]) for row in noisy]), device)
    heat = moved(np.array([temperatures[row] for row in noisy], np.float32), device)
    num_tokens = num_logits if ids is None else int(ids.max()) + 1
    noise = gumbel_torch(keys[:, 0], keys[:, 1], num_tokens)
    if ids is not None:
        noise = noise[:, ids]
    scores = logits.clone()
    plain = logits[noisy]
    hot = plain + heat[:, None] * noise
    scores[noisy] = _among_few(plain, hot, heat[:, None], num) if num_logits > SMALL else hot
    return scores


def _among_few(plain: Tensor, hot: Tensor, heat: Tensor, num: int) -> Tensor:
    """Without what `rank` would not look at: it draws little noise where little can be chosen."""
    near = plain >= _least(plain, DEPTH * heat, num)
    first = hot.masked_fill(~near, -torch.inf).amax(1, keepdim=True)
    beyond = ((plain - first) / heat).exp_().masked_fill_(near, 0.0).sum(1, keepdim=True)
    few = near.sum(1, keepdim=True) <= FEW * plain.shape[1]
    few &= -torch.expm1(-beyond) < MAX_MISSED
    return hot.masked_fill(few & ~near, -torch.inf)


def _mass(scores: Tensor, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """exp(scores) of what counts, [n, vocab], in units of the best; its sum; the entropy."""
    counts = scores >= _least(scores, DEPTH, num)
    shifted = (scores - scores.amax(1, keepdim=True)).clamp_(min=-_LOWEST)
    mass = shifted.exp() * counts
    total = mass.sum(1)
    return mass, total, total.log() - (mass * shifted).sum(1) / total


def _least(values: Tensor, depth: Tensor | float, num: int) -> Tensor:
    """[n, 1]: what lies within `depth` of the highest, or is among the first `num`, is above."""
    best = values.topk(min(num, values.shape[1]), dim=1).values
    return torch.minimum(best[:, :1] - depth, best[:, -1:])


def _sorted(
    tokens: NDArray[np.int64], columns: NDArray[np.int64], found: NDArray[np.float32]
) -> Ranking:
    num = tokens.shape[1]
    order = np.lexsort((columns, -found[:, :num]))  # the lowest id wins a tie, as in the choice
    shares, likelihoods = found[:, num : 2 * num], found[:, 2 * num : 3 * num]
    return Ranking(
        np.take_along_axis(tokens, order, 1),
        np.take_along_axis(shares, order, 1),
        np.take_along_axis(likelihoods, order, 1),
        *np.ascontiguousarray(found[:, 3 * num :].T),
    )
