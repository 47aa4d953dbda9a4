"""What drafts are worth: how many of a source's tokens the target accepts, and how far in a row."""

from __future__ import annotations

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


def cumulative_acceptance(acceptance: Floats, calibrations: Floats) -> Floats:
    """[drafts, sessions] of P(accepted | all before it) to P(it and all before it are accepted)."""
    cumulative: Floats = np.minimum(acceptance * calibrations, 1.0)
    for number in range(1, len(cumulative)):  # cumprod is several times as slow
        cumulative[number] *= cumulative[number - 1]
    return cumulative
