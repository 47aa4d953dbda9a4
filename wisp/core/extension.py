"""What a batched step of a drafter computes, where it keeps many sequences in numbered slots."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Fork(NamedTuple):
    """Slot `target` is to hold the first `num_tokens` tokens of slot `source`, and nothing else."""

    source: int
    target: int
    num_tokens: int


class Extension(NamedTuple):
    """A slot keeps its first `start` tokens, and goes on with others."""

    slot: int
    start: int
    tokens: list[int]  # one at least, as the model calls them
    seed: int  # of the noise of what may be chosen behind them
    temperature: float  # below `GREEDY_BELOW`: there is none


class Ranking(NamedTuple):
    """Of n rows, the likeliest choice of each first; m tokens are named of a row."""

    tokens: NDArray[np.int64]  # [n, m]: the target's ids
    shares: NDArray[np.float32]  # [n, m]: of softmax(logits + temperature * noise)
    likelihoods: NDArray[np.float32]  # [n, m]: of softmax(logits)
    entropies: NDArray[np.float32]  # [n]: of softmax(logits + temperature * noise), in nats
    plain_entropies: NDArray[np.float32]  # [n]: of softmax(logits)
    spreads: NDArray[np.float32]  # [n]: standard deviations of the logits
