"""Policies from what was chosen: the only place that knows how each is made."""

from __future__ import annotations

from wisp.estimator.base import Estimator
from wisp.scheduler.base import Policy
from wisp.scheduler.baselines import Centralized, Fcfs, Sled, WispPaper
from wisp.scheduler.tuning import MAX_WINDOW, PolicyChoice
from wisp.scheduler.wisp import Wisp


def make_policy(
    choice: PolicyChoice, estimator: Estimator, max_window: int = MAX_WINDOW, max_own: int = 0
) -> Policy:
    """`max_window`: the largest window that a directive may ask for. `max_own`: own drafts of a
    session that the server's drafter makes at most; 0: there is none."""
    first, max_step_tokens = choice.first, choice.max_step_tokens
    match choice.policy:
        case "wisp":
            return Wisp(
                estimator,
                first,
                block_tokens=choice.block_tokens,
                max_window=max_window,
                max_step_tokens=max_step_tokens,
                max_own=max_own,
            )
        case "wisp-paper":
            return WispPaper(estimator, first, choice.block_tokens, max_step_tokens)
        case "sled":
            return Sled(
                estimator,
                first,
                choice.block_tokens,
                max_step_tokens,
                batch_size=choice.batch_size,
                batch_wait_s=choice.batch_wait_s,
            )
        case "fcfs":
            return Fcfs(estimator, first, choice.block_tokens, max_step_tokens)
        case "centralized":
            return Centralized(estimator, max_step_tokens)
