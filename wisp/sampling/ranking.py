"""The likeliest choices of many rows of logits, found where the logits lie.

It is `wisp.sampling.draft.rank`, and what a proposal says beside it, for a drafter on a GPU: a row
of logits is a megabyte, and what is asked of it some dozen numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wisp.core.extension import Ranking
from wisp.sampling.choice import moved
from wisp.sampling.draft import DEPTH, FEW, MAX_MISSED, SMALL
from wisp.sampling.philox import GREEDY_BELOW, gumbel_of_torch, gumbel_torch, signed

# Tokens that are named of each row. Chosen: those of a proposal, and room for ties between logits
# of 16 bits, of which the lowest id is to win.
_NUM = 16
# Tokens of a large vocabulary that are given noise at first. Chosen: trained models are sure of
# themselves to some dozens; of a row that is not, all are.
_WIDTH = 256
# A logit so far below the highest has no part in any sum. Chosen: its exponential is 0 in float32.
_LOWEST = 200.0


class _Noise(NamedTuple):
    """Of n rows, on the device."""

    seeds: Tensor  # int64 [n], see `wisp.sampling.philox.signed`
    positions: Tensor  # int64 [n]
    heat: Tensor  # float32 [n, 1]; 0: there is none


class _First(NamedTuple):
    """The best of n rows, likeliest first; on the device."""

    columns: Tensor  # int64 [n, m]
    scores: Tensor  # [n, m]: logits + temperature * noise
    shares: Tensor  # [n, m]: of softmax(scores)
    entropies: Tensor  # [n]


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
    greedy = np.array(temperatures, np.float32) < GREEDY_BELOW
    heat = np.where(greedy, np.float32(0), np.array(temperatures, np.float32))
    keys = moved(np.array([[signed(s) for s in seeds], positions]), logits.device)
    noise = _Noise(keys[0], keys[1], moved(heat, logits.device)[:, None])
    best = logits.amax(1, keepdim=True)
    shifted = (logits - best).clamp_(min=-_LOWEST)
    mass = shifted.exp()
    total = mass.sum(1)
    plain = total.log() - (mass * shifted).sum(1) / total
    if greedy.all():
        first = _first(None, logits, num)
    elif logits.shape[1] <= SMALL:
        first = _first(None, _all_hot(logits, noise, ids), num)
    else:
        first = _of_large(logits, noise, ids, num)
    likelihoods = mass.gather(1, first.columns) / total[:, None]
    is_greedy = noise.heat == 0.0
    numbers = [
        first.scores,
        torch.where(is_greedy, likelihoods, first.shares),
        likelihoods,
        torch.where(is_greedy[:, 0], plain, first.entropies)[:, None],
        plain[:, None],
        logits.std(1, correction=0, keepdim=True),
    ]
    found = torch.cat(numbers, 1).cpu().numpy()
    columns = first.columns.cpu().numpy()
    return _sorted(columns, found, None if ids is None else ids.cpu().numpy())


def _of_large(logits: Tensor, noise: _Noise, ids: Tensor | None, num: int) -> _First:
    """As `rank` has it: where hardly any other can be the first, a few tokens alone have noise."""
    values, columns = logits.topk(_WIDTH, dim=1)
    drawn = gumbel_of_torch(*noise[:2], columns if ids is None else ids[columns])
    is_greedy = noise.heat == 0.0
    least = _least(values, noise.heat, num)
    hot = (values + noise.heat * drawn).masked_fill_((values < least) & ~is_greedy, -torch.inf)
    heat = torch.where(is_greedy, 1.0, noise.heat)
    # Fewer than `_WIDTH` are near then, and `FEW` of a large vocabulary are as many at the least.
    sure = _is_sure(logits, least, hot, heat) & (values[:, -1:] < least)
    first = _first(columns, hot, num)
    unsure = (~(sure | is_greedy))[:, 0].nonzero()[:, 0]
    if len(unsure):
        some = _Noise(*[part[unsure] for part in noise])
        cold = logits[unsure]
        others = _among_few(cold, _all_hot(cold, some, ids), some.heat, num)
        for part, other in zip(first, _first(None, others, num), strict=True):
            part.index_copy_(0, unsure, other)
    return first


def _all_hot(logits: Tensor, noise: _Noise, ids: Tensor | None) -> Tensor:
    num_tokens = logits.shape[1] if ids is None else int(ids.max()) + 1
    drawn = gumbel_torch(*noise[:2], num_tokens)
    return logits + noise.heat * (drawn if ids is None else drawn[:, ids])


def _among_few(plain: Tensor, hot: Tensor, heat: Tensor, num: int) -> Tensor:
    """Without what `rank` would not look at: it draws little noise where little can be chosen."""
    least = _least(plain.topk(num, dim=1).values, heat, num)
    near = plain >= least
    few = near.sum(1, keepdim=True) <= FEW * plain.shape[1]
    few &= _is_sure(plain, least, hot.masked_fill(~near, -torch.inf), heat)
    return hot.masked_fill(few & ~near, -torch.inf)


def _least(best: Tensor, heat: Tensor, num: int) -> Tensor:
    """[n, 1]: the logit that `rank` asks for; `best`: the highest of each row, in order."""
    return torch.minimum(best[:, :1] - DEPTH * heat, best[:, num - 1 : num])


def _is_sure(logits: Tensor, least: Tensor, hot: Tensor, heat: Tensor) -> Tensor:
    """[n, 1]: that no logit below `least` has a higher score than the best of `hot`, nearly."""
    beyond = ((logits - hot.amax(1, keepdim=True)) / heat).exp_()
    beyond = beyond.masked_fill_(logits >= least, 0.0).sum(1, keepdim=True)
    return -torch.expm1(-beyond) < MAX_MISSED


def _first(columns: Tensor | None, scores: Tensor, num: int) -> _First:
    """scores: [n, m], of these columns; None: of all, in order."""
    top = scores.topk(min(_NUM, scores.shape[1]), dim=1)
    best, asked = top.values[:, :1], min(num, scores.shape[1])
    # What is so far below the best counts for nothing, unless it is among those asked for.
    least = torch.minimum(best - DEPTH, top.values[:, asked - 1 : asked])
    shifted = (scores - best).clamp_(min=-_LOWEST)
    mass = shifted.exp() * (scores >= least)
    total = mass.sum(1)
    entropies = total.log() - (mass * shifted).sum(1) / total
    shares = (top.values - best).exp_() * (top.values >= least) / total[:, None]
    where = top.indices if columns is None else columns.gather(1, top.indices)
    return _First(where, top.values, shares, entropies)


def _sorted(
    columns: NDArray[np.int64], found: NDArray[np.float32], ids: NDArray[np.int64] | None
) -> Ranking:
    num = columns.shape[1]
    order = np.lexsort((columns, -found[:, :num]))  # the lowest id wins a tie, as in the choice
    columns = np.take_along_axis(columns, order, 1)
    return Ranking(
        columns if ids is None else ids[columns],
        np.take_along_axis(found[:, num : 2 * num], order, 1),
        np.take_along_axis(found[:, 2 * num : 3 * num], order, 1),
        np.maximum(found[:, -3], 0.0),
        np.maximum(found[:, -2], 0.0),
        found[:, -1],
    )
