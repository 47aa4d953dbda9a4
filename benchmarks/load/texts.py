"""How right the drafts are: of each session's tokens, and what a drafter on the GPU has of it."""

from __future__ import annotations

import numpy as np

from benchmarks.sim.text import BetaTexts, Text
from wisp.testing.drafter import COVERAGE

# Standard deviation over prompts of the share accepted, of the public figures for Qwen3-32B with
# drafters of 0.6 to 8 billion parameters (github.com/leexcape/Llamacpp-Latency-Profiler).
SESSION_SPREAD = 0.1
# Sessions that stand for all. Chosen: their mean acceptance is within 0.002 of what is asked for.
NUM_SESSIONS = 4096


class SessionTexts:
    """Texts like `BetaTexts`, each of a session with an acceptance of its own around the mean."""

    temperature = 0.0

    def __init__(
        self,
        acceptance: float,
        session_spread: float = SESSION_SPREAD,
        coverage: tuple[float, ...] = COVERAGE,
    ) -> None:
        self.acceptance = acceptance
        self._coverage = coverage
        self._shape = _beta(acceptance, session_spread)

    def make(self, num_tokens: int, seed: tuple[int, ...]) -> Text:
        acceptance = self.acceptance
        if self._shape:
            drawn = np.random.default_rng((*seed, num_tokens)).beta(*self._shape)
            acceptance = float(np.clip(drawn, 0.01, 0.99))
        return BetaTexts(acceptance, coverage=self._coverage).make(num_tokens, seed)


def acceptance_rates(
    acceptance: float, num_drafts: int, session_spread: float = SESSION_SPREAD
) -> list[float]:
    """P(the first i of so many drafts are all right) in a round, for i from 1.

    These are vLLM's `synthetic_acceptance_rates`, which are the same in every round. The sessions
    are those of the edges' drafts; one whose drafts are wrong more often takes more rounds for its
    answer, and counts as often: p^i is weighted with 1 / (1 + p + ... + p^num_drafts).
    """
    of_sessions = np.array(session_acceptances(acceptance, session_spread))
    right = of_sessions[:, None] ** np.arange(1, num_drafts + 1)
    num_rounds = 1.0 / (1.0 + right.sum(axis=1))
    return [round(float(rate), 6) for rate in num_rounds @ right / num_rounds.sum()]


def session_acceptances(acceptance: float, session_spread: float = SESSION_SPREAD) -> list[float]:
    """Of `NUM_SESSIONS` of them, by seed."""
    return [session_acceptance(acceptance, seed, session_spread) for seed in range(NUM_SESSIONS)]


def session_acceptance(
    acceptance: float, seed: int, session_spread: float = SESSION_SPREAD
) -> float:
    """That of one session's drafts, drawn as `SessionTexts` draws it."""
    shape = _beta(acceptance, session_spread)
    if shape is None:
        return acceptance
    return float(np.clip(np.random.default_rng(seed).beta(*shape), 0.01, 0.99))


def _beta(mean: float, spread: float) -> tuple[float, float] | None:
    """Of the sessions' acceptances; None: all have the same."""
    if spread == 0.0 or not 0.0 < mean < 1.0:
        return None
    # A spread that leaves no room between 0 and 1 is taken as the widest that has one hump.
    weight = max(2.0, mean * (1.0 - mean) / spread**2 - 1.0)
    return mean * weight, (1.0 - mean) * weight
