"""The policies by name."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from wisp.core.drafts import REST, Directive
from wisp.estimator.base import Estimator
from wisp.scheduler.base import Policy
from wisp.scheduler.baselines import Centralized, Fcfs, Sled, WispPaper
from wisp.scheduler.wisp import Wisp

__all__ = [
    "ESTIMATING",
    "POLICIES",
    "Fcfs",
    "Policy",
    "PolicyChoice",
    "PolicyName",
    "choose_policy",
    "make_policy",
]

PolicyName = Literal["wisp", "wisp-paper", "sled", "fcfs", "centralized"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)
ESTIMATING: frozenset[PolicyName] = frozenset({"wisp", "wisp-paper"})  # ask what a step will take

_Count = Annotated[int, Meta(ge=0)]
_AtLeastOne = Annotated[int, Meta(ge=1)]


class PolicyChoice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy, and what can be set of one; which of these it uses is its own affair."""

    policy: PolicyName
    window: _Count
    threshold: Annotated[float, Meta(ge=0, le=1)]
    block_tokens: _AtLeastOne
    max_step_tokens: _AtLeastOne
    batch_size: _AtLeastOne
    batch_wait_s: Annotated[float, Meta(ge=0)]

    @property
    def first(self) -> Directive:
        """What an edge may do before anything is known of it."""
        if self.policy == "centralized":
            return REST
        if self.policy == "sled":
            return Directive(self.block_tokens, 0.0)
        return Directive(self.window, self.threshold)


def choose_policy(choice: PolicyChoice, estimator: Estimator, max_window: int) -> Policy:
    return make_policy(
        choice.policy,
        estimator=estimator,
        first=choice.first,
        block_tokens=choice.block_tokens,
        max_window=max_window,
        max_step_tokens=choice.max_step_tokens,
        batch_size=choice.batch_size,
        batch_wait_s=choice.batch_wait_s,
    )


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
    match name:
        case "wisp":
            return Wisp(
                estimator,
                first,
                block_tokens=block_tokens,
                max_window=max_window,
                max_step_tokens=max_step_tokens,
            )
        case "wisp-paper":
            return WispPaper(estimator, first, block_tokens, max_step_tokens)
        case "sled":
            return Sled(estimator, block_tokens, batch_size, batch_wait_s, max_step_tokens)
        case "fcfs":
            return Fcfs(estimator, first, block_tokens, max_step_tokens)
        case "centralized":
            return Centralized(estimator, max_step_tokens)
