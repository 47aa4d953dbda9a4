"""The policies by name."""

from __future__ import annotations

from typing import Literal, get_args

from wisp.core import Directive
from wisp.estimator.base import Estimator
from wisp.scheduler.base import Policy
from wisp.scheduler.centralized import Centralized
from wisp.scheduler.fcfs import Fcfs
from wisp.scheduler.paper import WispPaper
from wisp.scheduler.sled import Sled
from wisp.scheduler.wisp import Wisp

__all__ = ["ESTIMATING", "POLICIES", "Fcfs", "Policy", "PolicyName", "make_policy"]

PolicyName = Literal["wisp", "wisp-paper", "sled", "fcfs", "centralized"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)
ESTIMATING: frozenset[PolicyName] = frozenset({"wisp", "wisp-paper"})  # ask what a step will take


def make_policy(
    name: PolicyName,
    *,
    estimator: Estimator,
    first: Directive,
    block_tokens: int = 4,
    max_window: int = 64,
    max_step_tokens: int = 256,
    batch_size: int = 8,
    batch_wait_s: float = 0.05,
) -> Policy:
    """`first`: the directive before anything is known of an edge, and for ever where it is fixed.

    `batch_size` and `batch_wait_s` are those of `sled` alone.
    """
    policy: Policy
    match name:
        case "wisp":
            policy = Wisp(
                estimator,
                first,
                block_tokens=block_tokens,
                max_window=max_window,
                max_step_tokens=max_step_tokens,
            )
        case "wisp-paper":
            policy = WispPaper(estimator, first, block_tokens, max_step_tokens)
        case "sled":
            policy = Sled(block_tokens, batch_size, batch_wait_s, max_step_tokens)
        case "fcfs":
            policy = Fcfs(first, block_tokens, max_step_tokens)
        case "centralized":
            policy = Centralized(max_step_tokens)
    policy.estimator = estimator
    return policy
