"""What drafts are worth: how many of a source's tokens the target accepts, and how far in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Acceptance:
    """P(a draft token of one source is accepted | all before it were), over the recent past.

    Both counts fade with every examined token, and with them the prior that they begin with.
    """

    examined: float  # draft tokens verified, up to the first rejected one of each block
    accepted: float  # of those
    kept: float  # of the past, with every examined token

    @property
    def rate(self) -> float:
        return self.accepted / self.examined

    def learn(self, num_drafted: int, num_accepted: int) -> None:
        """Of one verified block: the tokens behind the first rejected one tell nothing."""
        for index in range(min(num_drafted, num_accepted + 1)):
            self.examined = self.kept * self.examined + 1.0
            self.accepted = self.kept * self.accepted + (index < num_accepted)

    def forget(self, factor: float) -> None:
        """Keep the rate, but only this share of its evidence."""
        self.examined *= factor
        self.accepted *= factor


# Share of the past that every examined or committed token leaves. Chosen: a memory of 50 tokens,
# which is some ten blocks, so that a liar is found out within them and text may change its ways.
KEPT = 0.98

# The evidence that a model's drafts begin with, in tokens, and how many of them were accepted.
# Chosen: typical of the drafters measured (0.7), and overruled by the first block or two.
_PRIOR_EXAMINED, _PRIOR_ACCEPTED = 4.0, 2.8

# The rate that counts as the highest. Chosen: as good as all, and the sum of its powers is finite.
_MOST_RATE = 0.99

# The lowest calibration. Chosen: so near to nothing that a bad edge's drafts displace nobody's,
# yet not 0, so that they stay in order and are verified where that is free.
_MIN_CALIBRATION = 1e-3


@dataclass(slots=True)
class ModelAcceptance(Acceptance):
    """Of drafts of a model, which says of each how probably it is accepted."""

    examined: float = _PRIOR_EXAMINED
    accepted: float = _PRIOR_ACCEPTED
    kept: float = KEPT
    predicted: float = _PRIOR_ACCEPTED  # what the model said `accepted` would be
    calibration: float = 1.0  # accepted / predicted: what it says is to be multiplied by

    def compare(self, predicted: Sequence[float], num_accepted: int) -> None:
        """Learn from one verified block, and from what was said of each of its tokens."""
        self.learn(len(predicted), num_accepted)
        for probability in predicted[: num_accepted + 1]:
            self.predicted = self.kept * self.predicted + probability
        self.calibration = max(_MIN_CALIBRATION, self.accepted / max(self.predicted, 1e-9))

    def forget(self, factor: float) -> None:
        Acceptance.forget(self, factor)
        self.predicted *= factor


def cumulative_acceptance(acceptance: Floats, calibrations: Floats) -> Floats:
    """[drafts, sessions] of P(accepted | all before it) to P(it and all before it are accepted)."""
    cumulative: Floats = np.minimum(acceptance * calibrations, 1.0)
    for number in range(1, len(cumulative)):  # cumprod is several times as slow
        cumulative[number] *= cumulative[number - 1]
    return cumulative


def num_accepted(rate: Floats | float, num_drafts: Floats | float) -> Floats:
    """How many of so many drafts in a row are expected to be accepted, each with `rate` if all
    before it were; `num_drafts` may be a fraction, or infinite."""
    rate = np.minimum(rate, _MOST_RATE)
    return np.asarray(rate * (1.0 - rate**num_drafts) / (1.0 - rate))
