"""One step of the target: who takes part, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from wisp.core.drafts import Alternative, Source
from wisp.core.session import Session


class Seat(Struct, gc=False):  # a thousand are made for one step; nothing refers back to them
    """One session's part in a step."""

    session: Session
    num_context: int  # how many committed tokens to compute, from session.num_computed on
    draft: list[int] = []  # draft tokens to verify behind them, if they reach the text's end
    source: Source = Source.EDGE  # where `draft` comes from
    edge_late: bool = False  # its edge was waited for until the deadline, in vain
    num_own: int = 0  # own drafts to make behind what is chosen
    # In place of `draft`, by what a step in flight chooses: at most one of them applies.
    alternatives: Sequence[Alternative] = ()

    @property
    def num_drafts(self) -> int:
        """Draft tokens that the step computes, whichever they will be."""
        if not self.alternatives:
            return len(self.draft)
        return max(len(self.draft), *[len(each.drafts) for each in self.alternatives])

    @property
    def num_tokens(self) -> int:
        return self.num_context + self.num_drafts

    def alternative(self, chosen: Sequence[int]) -> Alternative | None:
        """The one that applies if a step in flight committed these tokens, the last one its own
        choice."""
        for each in self.alternatives:
            if each.num_accepted == len(chosen) - 1 and each.token == chosen[-1]:
                return each
        return None

    def drafts_behind(self, chosen: Sequence[int]) -> list[int]:
        """Those that stand in the step, if a step in flight committed these tokens."""
        alternative = self.alternative(chosen)
        return alternative.drafts if alternative else self.draft

    @property
    def chooses(self) -> bool:
        """False while the seat ends inside the prompt: then the step commits nothing."""
        return self.num_context == self.session.num_missing


@dataclass(slots=True)
class Batch:
    """The sessions of one step of the target."""

    seats: list[Seat] = field(default_factory=list)
    value: float = 0.0  # tokens that the policy expects it to commit; 0: it does not say
    num_sessions: int = 0  # that were there when it was decided on; 0: the policy does not say
    drafting_s: float = 0.0  # that making own drafts will take
    plain: bool = False  # everybody without drafts, to see what that commits

    def __len__(self) -> int:
        return len(self.seats)

    @property
    def num_tokens(self) -> int:
        return sum(seat.num_tokens for seat in self.seats)
