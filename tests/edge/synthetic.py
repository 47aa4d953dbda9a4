"""Synthetic labels for predictors, with a known truth about what is accepted."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

from wisp.edge.drafter.base import Proposal
from wisp.edge.predictor import Features, Label


def proposal(confidence: float) -> Proposal:
    """Two tokens share all of the probability."""
    rest = 1.0 - confidence
    entropy = -confidence * math.log(confidence) - rest * math.log(rest)
    return Proposal(5, confidence, entropy, abs(confidence - rest), spread=2.0)


def labels(
    count: int, seed: int, truth: Callable[[Features], float], temperature: float = 0.0
) -> Iterator[Label]:
    chance = random.Random(seed)
    for _ in range(count):
        features = Features(
            proposal(chance.uniform(0.05, 0.99)),
            temperature,
            recent=chance.random(),
            run=chance.randrange(12),
            repeats=chance.choice([-1, 0, 1]),
        )
        yield Label(features, chance.random() < truth(features))


def overconfident(features: Features) -> float:
    """A drafter that is far surer of itself than the target agrees with it."""
    return 0.4 * features.proposal.confidence


def by_repetition(features: Features) -> float:
    return (0.1, 0.5, 0.9)[features.repeats + 1]
