"""Draft tokens: guesses at the choice, ranked with the choice's own noise and without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wisp.core.request import Sampling
from wisp.sampling.philox import GREEDY_BELOW, gumbel_numpy, gumbel_of

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]

# Of a larger vocabulary, noise is drawn at first for tokens at most so many units of noise less
# likely than the likeliest. Chosen: some dozens where a model is sure of itself; the ranking does
# not depend on it.
DEPTH = 8.0
# It is drawn for all if one of the others is the first with a higher chance than this. Chosen: so
# rare a wrong guess costs less than the noise of a whole vocabulary (docs/measurements/noise.md).
MAX_MISSED = 1e-3
# A vocabulary for which drawing all is as cheap as drawing a few, and the part of a larger one that
# costs as much as the whole, as measured on one core.
SMALL, FEW = 8192, 1 / 32


class Ranked(NamedTuple):
    """What may be chosen, the likeliest choice first: at least as many as were asked for."""

    tokens: Tokens
    scores: Floats  # logits + temperature * noise


def rank(
    logits: Floats,
    samplings: Sequence[Sampling | None],
    positions: Sequence[int],
    num: int,
    ids: Tokens | None = None,
) -> list[Ranked]:
    """The `num` likeliest choices of each row, and more; logits: the drafter's, [rows, vocab].

    `ids` [vocab] are the target's ids of the columns, for a drafter that knows only some of its
    tokens; what is returned are columns.

    A choice is the argmax of logits / temperature + noise, and the noise is known. The first of a
    row equals the target's choice for the same logits when temperature is all that its sampling
    changes; None is temperature 0. Penalties and filters are left to the target: a guess that they
    forbid is not accepted, and that is all.

    Few tokens of a large vocabulary need noise. The chance that one of the others beats a score s
    is exactly 1 - exp(-(sum of exp(logit / temperature) over them) / exp(s / temperature)); where
    it is not small, noise is drawn for all.
    """
    num = min(num, logits.shape[1])
    noisy = {
        index: (sampling, positions[index])
        for index, sampling in enumerate(samplings)
        if sampling and sampling.temperature >= GREEDY_BELOW
    }
    found = {}
    if logits.shape[1] > SMALL:
        found = _among_few(logits, noisy, num, ids)
    found |= _among_all(logits, {i: key for i, key in noisy.items() if i not in found}, ids)
    for index, row in enumerate(logits):
        if index not in noisy:
            tokens = _near(row, DEPTH, num)
            found[index] = (tokens, row[tokens])
    return [_sorted(*found[index], num) for index in range(len(logits))]


Keys = dict[int, tuple[Sampling, int]]  # by row: whose noise, and at which position
Scored = dict[int, tuple[Tokens, Floats]]


def _among_few(logits: Floats, keys: Keys, num: int, ids: Tokens | None) -> Scored:
    """Rows for which hardly any other token can be the first."""
    near = {i: _near(logits[i], DEPTH * s.temperature, num) for i, (s, _) in keys.items()}
    near = {i: tokens for i, tokens in near.items() if len(tokens) <= FEW * logits.shape[1]}
    if not near:
        return {}
    keys = {index: keys[index] for index in near}
    counts = [len(tokens) for tokens in near.values()]
    # For all rows at once: a call of numpy costs more than its work here.
    columns = np.concatenate(list(near.values()))
    noise = gumbel_of(
        np.repeat(np.array([s.seed for s, _ in keys.values()], np.uint64), counts),
        np.repeat(np.array([position for _, position in keys.values()]), counts),
        columns if ids is None else ids[columns],
    )
    found: Scored = {}
    for (index, tokens), part in zip(
        near.items(), np.split(noise, np.cumsum(counts)[:-1]), strict=True
    ):
        temperature = keys[index][0].temperature
        scores = logits[index][tokens] + np.float32(temperature) * part
        if _chance_beyond(logits[index] / temperature, tokens, scores.max() / temperature) < (
            MAX_MISSED
        ):
            found[index] = (tokens, scores)
    return found


def _chance_beyond(scaled: Floats, tokens: Tokens, first: float) -> float:
    """That a token other than these has a higher score than `first`."""
    mass = np.exp(scaled - np.float32(first))
    mass[tokens] = 0.0
    return float(-np.expm1(-mass.sum(dtype=np.float64)))


def _among_all(logits: Floats, keys: Keys, ids: Tokens | None) -> Scored:
    if not keys:
        return {}
    noise = gumbel_numpy(
        np.array([s.seed for s, _ in keys.values()], np.uint64),
        np.array([position for _, position in keys.values()]),
        logits.shape[1] if ids is None else int(ids.max()) + 1,
    )
    if ids is not None:
        noise = noise[:, ids]
    every = np.arange(logits.shape[1])
    return {
        index: (every, logits[index] + np.float32(sampling.temperature) * row)
        for (index, (sampling, _)), row in zip(keys.items(), noise, strict=True)
    }


def _near(row: Floats, depth: float, num: int) -> Tokens:
    """Tokens whose values lie within `depth` of the highest, and `num` at the least."""
    found = np.flatnonzero(row >= row.max() - depth)
    return found if len(found) >= num else np.argpartition(row, -num)[-num:]


def _sorted(tokens: Tokens, scores: Floats, num: int) -> Ranked:
    """All that are worth a look, the highest score first."""
    near = _near(scores, DEPTH, num)
    tokens, scores = tokens[near], scores[near]
    order = np.lexsort((tokens, -scores))  # the lowest id wins a tie, as in the choice
    return Ranked(tokens[order], scores[order])
