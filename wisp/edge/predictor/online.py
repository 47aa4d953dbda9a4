"""Logistic regression that learns from one label at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul
from typing import Any

import numpy as np

# Every `FADE_EVERY` labels this share of the certainty gained is kept, so a label weighs 1/e after
# about 6,400 others. Chosen: that many labels are a few dozen answers, within which a pair that
# changes is followed, and inverting a matrix once in 64 labels costs next to nothing.
KEPT, FADE_EVERY = 0.99, 64


class OnlineLogistic:
    """P = sigmoid(weights . x), with a Gaussian belief about the weights.

    The update is the extended Kalman filter of a logistic observation (the Laplace approximation
    of Spiegelhalter and Lauritzen, 1990, one label at a time): with s = P (1 - P) and v = x' C x,

        weights += C x (label - P) / (1 + s v),    C -= s / (1 + s v) (C x) (C x)'

    Certainty fades towards the prior's and not without end (stabilised forgetting, Kulhavy and
    Zarrop, 1993): weights of features that no label speaks of stay as sure as they were.
    """

    def __init__(self, mean: Sequence[float], variance: Sequence[float]) -> None:
        self._weights = list(mean)
        self._covariance = np.diag(np.array(variance, np.float64))
        self._prior_precision = np.linalg.inv(self._covariance)
        self.num_labels = 0

    def predict(self, x: Sequence[float]) -> float:
        # A handful of products: plain Python is faster than a call of numpy.
        score = sum(map(mul, self._weights, x))
        return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, score))))

    def learn(self, x: Sequence[float], accepted: bool) -> float:
        """Returns what was predicted before the label was known."""
        predicted = self.predict(x)
        slope = predicted * (1.0 - predicted)
        column = self._covariance @ np.array(x)
        gains = column.tolist()
        divisor = 1.0 + slope * sum(map(mul, gains, x))
        step = (accepted - predicted) / divisor
        self._weights = [w + step * gain for w, gain in zip(self._weights, gains, strict=True)]
        self._covariance -= np.multiply.outer(column * (slope / divisor), column)
        self.num_labels += 1
        if self.num_labels % FADE_EVERY == 0:
            self._fade()
        return predicted

    def _fade(self) -> None:
        precision = np.linalg.inv(self._covariance)
        faded = np.linalg.inv(KEPT * precision + (1.0 - KEPT) * self._prior_precision)
        self._covariance = (faded + faded.T) / 2.0  # rounding must not add up

    def state(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "weights": self._weights,
            "covariance": self._covariance.tolist(),
            "num_labels": self.num_labels,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Raises KeyError, TypeError or ValueError on what `state` did not make; then unchanged."""
        weights = np.array(state["weights"], np.float64)
        covariance = np.array(state["covariance"], np.float64)
        if weights.shape != (len(self._weights),) or covariance.shape != self._covariance.shape:
            raise ValueError("it was learned from other features")
        if not (np.isfinite(weights).all() and np.isfinite(covariance).all()):
            raise ValueError("it holds numbers that are not finite")
        if np.linalg.eigvalsh(covariance)[0] <= 0:
            raise ValueError("what it gives as a covariance is none")
        self.num_labels = int(state["num_labels"])
        self._weights, self._covariance = weights.tolist(), covariance
