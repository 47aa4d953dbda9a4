"""The policies by name, what can be set of them, and the defaults: all of it stands here once.

The configuration, `/v1/policy` and the simulator take their fields and defaults from here.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from wisp.core.drafts import REST, Directive

PolicyName = Literal["wisp", "wisp-paper", "sled", "fcfs", "centralized"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)
ESTIMATING: frozenset[PolicyName] = frozenset({"wisp", "wisp-paper"})  # ask what a step will take

# Draft tokens of a session that may wait for verification; more are an error. Chosen: a second of
# a fast drafter.
MAX_WINDOW = 64

_Count = Annotated[int, Meta(ge=0)]
_AtLeastOne = Annotated[int, Meta(ge=1)]


class Tuning(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a policy is set up; which of these it uses is its own affair."""

    window: _Count = 8  # draft tokens that an edge may be ahead; 0: no drafts
    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.3  # of cumulative acceptance, to draft on
    block_tokens: _AtLeastOne = 4  # drafts that are worth a step
    max_step_tokens: _AtLeastOne = 256  # of all seats of a step, prefill included
    batch_size: _AtLeastOne = 8  # sled: sessions of one static batch
    batch_wait_s: Annotated[float, Meta(ge=0)] = 0.05  # sled: longest wait for a full batch


class PolicyChoice(Tuning, frozen=True, kw_only=True, forbid_unknown_fields=True):
    policy: PolicyName

    @property
    def first(self) -> Directive:
        """What an edge may do before anything is known of it, and for ever where it is fixed."""
        if self.policy == "centralized":
            return REST
        if self.policy == "sled":
            return Directive(self.block_tokens, 0.0)
        return Directive(self.window, self.threshold)
