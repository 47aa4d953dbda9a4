"""The predictor: logistic regressions for greedy and for sampled choices, and for alternatives."""

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
# A draft is ranked by the choice's own noise, so at every temperature the target's choice is the
# argmax of scores much like the drafter's: it is the proposed token more often than that one's
# share says, for it sides with the likelier of two close tokens. A token that owes its rank to the
# noise is chosen less often than one that is likely without it. All else is left to learning.

# How much higher the logit is than that of the share, for the first candidate. Chosen: a guess on
# the safe side of 1, which some dozens of labels outweigh.
_MORE = 0.8
# The weights before the first label, of targets that take their argmax; 1 and 0 by definition of
# the belief above.
_GREEDY = (_MORE, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
# How unsure each of those weights is. Chosen: no measurement stands behind them; the constant may
# be off by about 1, and the others, whose features are scaled to about 1, by some 0.3 to 0.7.
_GREEDY_VARIANCE = (1.0, 0.2, 0.2, 0.2, 0.2, 0.5, 0.1, 0.2, 0.2, 0.2)
# As above, for targets that sample, with `_of_noise` at the end: measured on the bundled pair,
# where a third of it is better said by the likelihood (docs/measurements/noise.md).
_SAMPLED = (0.5, 0.7, *_GREEDY[2:], 0.3, 0.0)
# Chosen: as unsure as of the features like them.
_SAMPLED_VARIANCE = (*_GREEDY_VARIANCE, 0.2, 0.2)
# As above, for the candidates behind the first, with their rank at the end: measured there, too.
# What is left without the better ones is a little less sure to be the choice than the first was.
_ALTERNATIVE = (0.2, 0.9, *_GREEDY[2:], 0.0, 0.0, 0.0)
# Chosen: as unsure as of the features like them.
_ALTERNATIVE_VARIANCE = (*_SAMPLED_VARIANCE, 0.2)


class LogisticPredictor:
    """Implements `wisp.edge.predictor.base.Predictor`. Pure: no I/O, no clock."""

    def __init__(self) -> None:
        self._greedy = OnlineLogistic(_GREEDY, _GREEDY_VARIANCE)
        self._sampled = OnlineLogistic(_SAMPLED, _SAMPLED_VARIANCE)
        self._alternative = OnlineLogistic(_ALTERNATIVE, _ALTERNATIVE_VARIANCE)
        self._calibration = Calibration()

    @property
    def calibration_error(self) -> float:
        return self._calibration.error

    @property
    def num_labels(self) -> int:
        """Of first candidates."""
        return self._greedy.num_labels + self._sampled.num_labels

    def acceptance(self, features: Features) -> float:
        model, x = self._model(features)
        return model.predict(x)

    def learn(self, label: Label) -> None:
        features, accepted = label
        model, x = self._model(features)
        predicted = model.learn(x, accepted)
        if features.rank == 0:
            self._calibration.add(predicted, accepted)

    def _model(self, features: Features) -> tuple[OnlineLogistic, tuple[float, ...]]:
        x = _transform(features)
        if features.rank:
            return self._alternative, (*x, *_of_noise(features), features.rank - 2.0)
        if features.temperature < GREEDY_BELOW:
            return self._greedy, x
        return self._sampled, (*x, *_of_noise(features))

    def state(self) -> dict[str, Any]:
        """What it has learned, for JSON."""
        return {
            "greedy": self._greedy.state(),
            "sampled": self._sampled.state(),
            "alternative": self._alternative.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Raises KeyError, TypeError or ValueError on what `state` did not make; then unchanged."""
        restored = LogisticPredictor()
        restored._greedy.restore(state["greedy"])
        restored._sampled.restore(state["sampled"])
        restored._alternative.restore(state["alternative"])
        self._greedy, self._sampled = restored._greedy, restored._sampled
        self._alternative = restored._alternative


def fit(records: Iterable[Label]) -> LogisticPredictor:
    """A predictor that learned from logged rounds, offline, in one pass in their order."""
    predictor = LogisticPredictor()
    for label in records:
        predictor.learn(label)
    return predictor


def _transform(features: Features) -> tuple[float, ...]:
    """Scales on which a weighted sum is a fair guess at the logit; each is about -2 to 4."""
    proposal, temperature, recent, run, repeats, _ = features
    confidence = proposal.confidence + _TINY
    return (
        1.0,
        _logit(proposal.confidence),
        0.5 * proposal.entropy,
        log(proposal.margin + 0.01),
        log(proposal.spread + 0.01),
        recent - TYPICAL_ACCEPTANCE,
        log(1.0 + run),
        float(repeats),
        0.3 * log(confidence / max(_TINY, confidence - proposal.margin)),  # lead over the runner-up
        1.0 - temperature,
    )


def _of_noise(features: Features) -> tuple[float, float]:
    """What the drafter would think of the candidate without the noise; each is about -3 to 3."""
    proposal = features.proposal
    likelihood, entropy = proposal.likelihood, proposal.plain_entropy
    return (
        _logit(proposal.confidence if likelihood is None else likelihood),
        0.5 * (proposal.entropy if entropy is None else entropy),
    )


def _logit(probability: float) -> float:
    return log((probability + _TINY) / max(_TINY, 1.0 + _TINY - probability))
