"""The text of a session without a model: where a draft token is right, and what its drafter sees.

The target's choice at a position is the position itself, so any two positions differ, and nothing
repeats: neither `wisp.lookup` nor `wisp.edge.repeats` finds anything in it.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from wisp.edge.drafter.base import Proposal

WRONG = -1  # the token of a draft that the target does not choose


class Text(NamedTuple):
    """One session's, by output position."""

    right: list[bool]  # had all before it been right
    confidence: list[float]
    entropy: list[float] | None = None
    margin: list[float] | None = None
    spread: list[float] | None = None

    def proposal(self, position: int, index: int) -> Proposal:
        """At `position` of the whole sequence, `index` of the output."""
        token = position if self.right[index] else WRONG
        confidence = self.confidence[index]
        if self.entropy is None or self.margin is None or self.spread is None:
            return Proposal(token, confidence, 0.0, 0.0, 0.0)
        return Proposal(
            token, confidence, self.entropy[index], self.margin[index], self.spread[index]
        )


class Texts(Protocol):
    def make(self, num_tokens: int, seed: tuple[int, ...]) -> Text:
        """The same for the same seed."""


class BetaTexts:
    """P(right) of each position is drawn from a beta distribution with the given mean.

    The drafter is confident of exactly that (a calibrated predictor), but for normal noise on its
    logit. With `spread` 1.5 confidence tells right from wrong with an AUC of about 0.85 at a mean
    of 0.7, as that of the bundled pair does. `patch` is the mean length of a stretch of positions
    with one P(right); 1 makes them independent.
    """

    def __init__(
        self, acceptance: float, *, spread: float = 1.5, noise: float = 0.3, patch: float = 1.0
    ) -> None:
        self.acceptance = acceptance
        self._spread = spread
        self._noise = noise
        self._patch = patch

    def make(self, num_tokens: int, seed: tuple[int, ...]) -> Text:
        chance = np.random.default_rng(seed)
        a, b = self.acceptance * self._spread, (1.0 - self.acceptance) * self._spread
        patches = np.cumsum(chance.random(num_tokens) < 1.0 / self._patch)
        odds = np.clip(chance.beta(a, b, num_tokens + 1)[patches], 1e-3, 1.0 - 1e-3)
        right = chance.random(num_tokens) < odds
        logit = np.log(odds / (1.0 - odds)) + self._noise * chance.standard_normal(num_tokens)
        confidence: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-logit))
        return Text(right.tolist(), confidence.tolist())
