"""The rejection predictor: from what the drafter saw to P(accepted | all before it were)."""

from wisp.edge.predictor.base import ConfidencePredictor, Features, Label, Predictor
from wisp.edge.predictor.logistic import LogisticPredictor, fit
from wisp.edge.predictor.memory import Memory

__all__ = [
    "ConfidencePredictor",
    "Features",
    "Label",
    "LogisticPredictor",
    "Memory",
    "Predictor",
    "fit",
]
