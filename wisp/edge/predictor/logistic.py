"""The predictor: two logistic regressions, for greedy and for sampled choices of the target."""

from __future__ import annotations

from collections.abc import Iterable
from math import log
from typing import Any

from wisp.edge.predictor.base import TYPICAL_ACCEPTANCE, Features, Label
from wisp.edge.predictor.calibration import Calibration
from wisp.edge.predictor.online import OnlineLogistic
from wisp.sampling.philox import GREEDY_BELOW

# What is added to a probability whose logarithm is taken, so that it stays finite. Chosen: a
# drafter that is surer than this is not told apart from one that is certain.
_TINY = 1e-4

# What is believed of a pair before its first label, by feature in the order of `_transform`.
# A target that samples chooses the draft's likeliest token about as often as the draft itself says
# (logit P = logit confidence: a draft calibrated on the target's text). One that takes its argmax
# does so more often: it sides with the likelier of two close tokens. All else is left to learning.

# How much higher the logit is where the target takes its argmax. Chosen: a guess on the safe side
# of 1, which some dozens of labels outweigh.
_MORE_WHEN_GREEDY = 0.8
# The weights before the first label, of targets that take their argmax and of those that sample;
# 1 and 0 by definition of the belief above.
_GREEDY = (_MORE_WHEN_GREEDY, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
# As above, by definition: the less a target's temperature is, the more it is like the greedy one.
_SAMPLED = (0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, _MORE_WHEN_GREEDY)
# How unsure each of those weights is. Chosen: no measurement stands behind them; the constant may
# be off by about 1, and the others, whose features are scaled to about 1, by some 0.3 to 0.7.
_VARIANCE = (1.0, 0.2, 0.2, 0.2, 0.2, 0.5, 0.1, 0.2, 0.2, 0.2)


class LogisticPredictor:
    """Implements `wisp.edge.predictor.base.Predictor`. Pure: no I/O, no clock."""

    def __init__(self) -> None:
        self._greedy = OnlineLogistic(_GREEDY, _VARIANCE)
        self._sampled = OnlineLogistic(_SAMPLED, _VARIANCE)
        self._calibration = Calibration()

    @property
    def calibration_error(self) -> float:
        return self._calibration.error

    @property
    def num_labels(self) -> int:
        return self._greedy.num_labels + self._sampled.num_labels

    def acceptance(self, features: Features) -> float:
        return self._model(features).predict(_transform(features))

    def learn(self, label: Label) -> None:
        features, accepted = label
        model = self._model(features)
        predicted = model.learn(_transform(features), accepted)
        self._calibration.add(predicted, accepted)

    def _model(self, features: Features) -> OnlineLogistic:
        return self._greedy if features.temperature < GREEDY_BELOW else self._sampled

    def state(self) -> dict[str, Any]:
        """What it has learned, for JSON."""
        return {"greedy": self._greedy.state(), "sampled": self._sampled.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Raises KeyError, TypeError or ValueError on what `state` did not make; then unchanged."""
        restored = LogisticPredictor()
        restored._greedy.restore(state["greedy"])
        restored._sampled.restore(state["sampled"])
        self._greedy, self._sampled = restored._greedy, restored._sampled


def fit(records: Iterable[Label]) -> LogisticPredictor:
    """A predictor that learned from logged rounds, offline, in one pass in their order."""
    predictor = LogisticPredictor()
    for label in records:
        predictor.learn(label)
    return predictor


def _transform(features: Features) -> tuple[float, ...]:
    """Scales on which a weighted sum is a fair guess at the logit; each is about -2 to 4."""
    proposal, temperature, recent, run, repeats = features
    confidence = proposal.confidence + _TINY
    heat = temperature if temperature > 1.0 else 1.0
    return (
        1.0,
        # Tempering a choice between two tokens divides the logit by the temperature.
        log(confidence / max(_TINY, 1.0 + _TINY - proposal.confidence)) / heat,
        0.5 * proposal.entropy,
        log(proposal.margin + 0.01),
        log(proposal.spread + 0.01),
        recent - TYPICAL_ACCEPTANCE,
        log(1.0 + run),
        float(repeats),
        0.3 * log(confidence / max(_TINY, confidence - proposal.margin)),  # lead over the runner-up
        1.0 - temperature if temperature < 1.0 else 0.0,
    )
