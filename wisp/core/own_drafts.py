"""Own drafts: those of the server's drafter, which runs beside the target on the same device.

They are made behind a step's choices, on request of the policy, and are there when the next step is
decided on. To a session they are drafts of one more source.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from msgspec import Struct

from wisp.core.acceptance import ModelAcceptance
from wisp.core.drafts import Drafts, Source
from wisp.core.prefix import common_prefix

# Stands for an own draft that is still in the making: which token it is the device alone knows.
# Chosen: no token's id is negative.
COMING = -1


class Proposed(Struct, frozen=True, gc=False):
    """What the server's drafter proposes behind a session's last token."""

    tokens: list[int]
    acceptance: list[float]  # of each: P(accepted | all before it were), as the drafter has it


NOTHING = Proposed([], [])  # where none could be made


class OwnDrafts(Drafts):
    """The own drafts of one session."""

    source = Source.OWN

    def __init__(self) -> None:
        super().__init__()
        self._observed = ModelAcceptance()

    @property
    def calibration(self) -> float:
        return self._observed.calibration

    @property
    def rate(self) -> float:
        """P(a draft token is accepted | all before it were), before it is known which one."""
        return self._observed.rate

    def propose(self, proposed: Proposed) -> None:
        """In place of what is left of those before."""
        self.tokens = list(proposed.tokens)
        self.acceptance = array("d", proposed.acceptance)

    def learn(self, num_drafted: int, num_accepted: int) -> None:
        self._observed.compare(self.acceptance[:num_drafted], num_accepted)

    def committed(self, tokens: Sequence[int], end: int, *, keep: bool = False) -> None:
        """They live on if they agree with all of `tokens`."""
        num_agreed = common_prefix(self.tokens, tokens)
        agrees = num_agreed == min(len(tokens), len(self.tokens))
        del self.tokens[: num_agreed if agrees else None]
        del self.acceptance[: num_agreed if agrees else None]
