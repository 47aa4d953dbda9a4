"""What is done to a row of logits before its token is chosen, in the order of the functions here.

    logit bias, min tokens, repetition penalty, frequency and presence penalties,
    temperature, min-p, top-k, top-p

Each row is a function of itself alone, whatever other rows share the batch and however a device
orders its sums: the only sum is top-p's, and that one is of integers. Rows that use no processor
are not touched, and the vocabulary is never sorted for a row that has no top-p.

Token ids (of a bias, a stop, a context) must lie in the vocabulary: admission sees to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wisp.core.request import Sampling
from wisp.sampling.philox import GREEDY_BELOW

# The most likely token of a row weighs this many units of mass, so a token that is 2^40 times less
# likely weighs nothing, and the sum over a vocabulary of up to 2^22 stays below 2^63.
_MASS_UNITS = 2.0**40

# Top-p looks at so many of the most likely tokens first, and at more only if they weigh too little.
# Chosen: most nuclei are taken to be smaller; no measurement stands behind the number, and the text
# does not depend on it.
_NUCLEUS_GUESS = 256


@dataclass(frozen=True, slots=True)
class Row:
    """One row of logits: the choice of the token at `position`, given tokens[:position].

    `tokens` may go on behind the position, so the rows of one draft block share one sequence,
    prompt + output + draft, and nothing is copied for rows that never look at it.
    """

    sampling: Sampling
    tokens: Sequence[int]
    num_prompt: int
    position: int

    @property
    def greedy(self) -> bool:
        return self.sampling.temperature < GREEDY_BELOW


def is_plain(row: Row) -> bool:
    """The choice is the argmax of the logits as they are."""
    return row.greedy and not (
        row.sampling.logit_bias or _masks_stops(row) or _repeats(row) or _counts(row)
    )


def needs_processing(sampling: Sampling) -> bool:
    """Its rows may need more than the temperature and the noise."""
    return bool(
        sampling.logit_bias
        or sampling.min_tokens
        or sampling.repetition_penalty != 1.0
        or sampling.frequency_penalty
        or sampling.presence_penalty
        or sampling.min_p
        or sampling.top_k
        or sampling.top_p != 1.0
    )


def process(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Process the rows of logits, float32 [rows, vocab], in place; the same tensor is returned."""
    history = _History()
    _bias(logits, rows)
    _mask_stops(logits, rows)
    _penalize_repetition(logits, rows, history)
    _penalize_output(logits, rows, history)
    _divide_by_temperature(logits, rows)
    _filter(logits, rows)
    return logits


class _Cells:
    """Cells (row, token) of the logits with a value for each: one transfer for all rows."""

    def __init__(self) -> None:
        self._rows: list[NDArray[np.int64]] = []
        self._tokens: list[NDArray[np.int64]] = []
        self._values: list[NDArray[np.float32]] = []

    def add(
        self,
        row: int,
        tokens: Sequence[int] | NDArray[np.int64],
        values: float | Sequence[float] | NDArray[np.floating],
    ) -> None:
        """`values`: one for all of `tokens`, or one each. The tokens of a row are distinct."""
        ids = np.asarray(tokens, np.int64)
        self._rows.append(np.full(ids.shape, row))
        self._tokens.append(ids)
        self._values.append(np.broadcast_to(np.asarray(values, np.float32), ids.shape))

    def __bool__(self) -> bool:
        return bool(self._rows)

    def tensors(self, device: torch.device) -> tuple[tuple[Tensor, Tensor], Tensor]:
        cells = np.stack([np.concatenate(self._rows), np.concatenate(self._tokens)])
        rows, tokens = torch.from_numpy(cells).to(device)
        return (rows, tokens), torch.from_numpy(np.concatenate(self._values)).to(device)


class _History:
    """The rows' tokens as arrays, made once for all rows that share a sequence."""

    def __init__(self) -> None:
        self._arrays: dict[int, NDArray[np.int64]] = {}

    def context(self, row: Row) -> NDArray[np.int64]:
        array = self._arrays.get(id(row.tokens))
        if array is None:
            array = self._arrays[id(row.tokens)] = np.asarray(row.tokens, np.int64)
        return array[: row.position]

    def output(self, row: Row) -> NDArray[np.int64]:
        return self.context(row)[row.num_prompt :]


def _tally(tokens: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct tokens, and how often each occurs."""
    return np.unique(tokens, return_counts=True)  # without the counts, numpy is slower: it hashes


def _bias(logits: Tensor, rows: Sequence[Row]) -> None:
    """logit += bias."""
    cells = _Cells()
    for index, row in enumerate(rows):
        if bias := row.sampling.logit_bias:
            cells.add(index, list(bias), list(bias.values()))
    if cells:
        where, biases = cells.tensors(logits.device)
        logits[where] += biases


def _masks_stops(row: Row) -> bool:
    return row.position - row.num_prompt < row.sampling.min_tokens


def _mask_stops(logits: Tensor, rows: Sequence[Row]) -> None:
    """logit = -inf of stop tokens, until the output has min_tokens."""
    cells = _Cells()
    for index, row in enumerate(rows):
        if _masks_stops(row) and row.sampling.stop_token_ids:
            cells.add(index, row.sampling.stop_token_ids, -np.inf)
    if cells:
        where, masked = cells.tensors(logits.device)
        logits[where] = masked


def _repeats(row: Row) -> bool:
    return row.sampling.repetition_penalty != 1.0


def _penalize_repetition(logits: Tensor, rows: Sequence[Row], history: _History) -> None:
    """Of tokens in the prompt or the output: logit /= penalty if positive, else *= penalty.

    Keskar et al., "CTRL" (2019), with the sign minded as Hugging Face and vLLM do.
    """
    cells = _Cells()
    for index, row in enumerate(rows):
        if _repeats(row):
            seen, _ = _tally(history.context(row))
            cells.add(index, seen, row.sampling.repetition_penalty)
    if cells:
        where, penalty = cells.tensors(logits.device)
        before = logits[where]
        logits[where] = torch.where(before > 0, before / penalty, before * penalty)


def _counts(row: Row) -> bool:
    return row.sampling.frequency_penalty != 0.0 or row.sampling.presence_penalty != 0.0


def _penalize_output(logits: Tensor, rows: Sequence[Row], history: _History) -> None:
    """logit -= frequency_penalty * (times in the output) + presence_penalty * (is in the output).

    OpenAI's definition: the prompt does not count.
    """
    cells = _Cells()
    for index, row in enumerate(rows):
        if _counts(row):
            seen, times = _tally(history.output(row))
            penalty = times * row.sampling.frequency_penalty + row.sampling.presence_penalty
            cells.add(index, seen, penalty)
    if cells:
        where, penalties = cells.tensors(logits.device)
        logits[where] -= penalties


def _divide_by_temperature(logits: Tensor, rows: Sequence[Row]) -> None:
    """logit /= temperature; greedy rows stay, and x / 1 is x."""
    temperatures = [1.0 if row.greedy else row.sampling.temperature for row in rows]
    if any(temperature != 1.0 for temperature in temperatures):
        logits /= _column(temperatures, logits)


def _filter(logits: Tensor, rows: Sequence[Row]) -> None:
    """min-p, top-k and top-p, on the rows that use them; none of them moves an argmax."""
    noisy = [index for index, row in enumerate(rows) if not row.greedy]
    vocab = logits.shape[1]
    if chosen := [i for i in noisy if rows[i].sampling.min_p > 0.0]:
        _keep(logits, chosen, _min_p(logits[chosen], [rows[i].sampling.min_p for i in chosen]))
    if chosen := [i for i in noisy if 0 < rows[i].sampling.top_k < vocab]:
        _keep(logits, chosen, _top_k(logits[chosen], [rows[i].sampling.top_k for i in chosen]))
    if chosen := [i for i in noisy if rows[i].sampling.top_p < 1.0]:
        _keep(logits, chosen, _top_p(logits[chosen], [rows[i].sampling.top_p for i in chosen]))


def _keep(logits: Tensor, chosen: list[int], least: Tensor) -> None:
    """logit = -inf where it is below `least`, [len(chosen), 1]. So ties are never broken."""
    kept = logits[chosen]
    logits[chosen] = kept.masked_fill_(kept < least, -torch.inf)


def _min_p(logits: Tensor, min_p: list[float]) -> Tensor:
    """p >= min_p * (the largest p), which is logit >= (the largest logit) + log(min_p)."""
    return logits.amax(dim=-1, keepdim=True) + _column([math.log(p) for p in min_p], logits)


def _top_k(logits: Tensor, top_k: list[int]) -> Tensor:
    """The k-th largest logit: its ties are all kept, be it more than k."""
    largest = logits.topk(max(top_k), dim=-1).values
    return largest.gather(-1, torch.tensor(top_k, device=logits.device)[:, None] - 1)


def _top_p(logits: Tensor, top_p: list[float]) -> Tensor:
    """The last logit of the shortest run, from the most likely token on, whose mass is >= top_p.

    The mass is counted in whole units, so its sums are exact, and neither their order nor the
    number of other rows can move the boundary. Tokens tied with the last are all kept.
    """
    vocab = logits.shape[1]
    mass = (logits - logits.amax(dim=-1, keepdim=True)).exp().mul_(_MASS_UNITS).long()
    p = torch.tensor(top_p, dtype=torch.float64, device=logits.device)[:, None]
    wanted = p * mass.sum(dim=-1, keepdim=True)
    width = min(_NUCLEUS_GUESS, vocab)
    while True:
        largest, order = logits.topk(width, dim=-1)
        through = mass.gather(-1, order).cumsum(dim=-1)
        if width == vocab or bool((through[:, -1:] >= wanted).all()):
            break
        width = min(4 * width, vocab)
    num_short = (through < wanted).sum(dim=-1, keepdim=True)  # runs that are too short, by length
    return largest.gather(-1, num_short.clamp_(max=width - 1))


def _column(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
