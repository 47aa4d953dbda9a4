"""Wasted drafting: what an edge spent on tokens that were never committed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Cost(NamedTuple):
    """Of one draft token."""

    time_s: float = 0.0  # its share of the drafter's batched step
    overlapped: bool = False  # the server owed the session a verdict when it was begun


class Waste(NamedTuple):
    """Wasted drafting of one generation, in tokens and in seconds of two kinds.

    A draft token is wasted once it is certain not to be committed as drafted: the target chose
    another at its position or before it, a verdict overtook it while it was drafted, or the
    generation ended first. It costs its share of the drafter's batched step, counted whole for
    the kind that held when that step began:

    - overlapped: the server owed the session a verdict, having an opening that no verdict has
      answered yet, or a block of the live epoch that none has judged. The edge had to wait anyway.
    - blocking: it owed nothing, so the drafting put off the block that the next verdict would
      judge, and with it that verdict.
    """

    num_tokens: int = 0
    blocking_s: float = 0.0
    overlapped_s: float = 0.0

    @property
    def time_s(self) -> float:
        return self.blocking_s + self.overlapped_s

    def plus(self, costs: Iterable[Cost]) -> Waste:
        num_tokens, blocking_s, overlapped_s = self
        for cost in costs:
            num_tokens += 1
            if cost.overlapped:
                overlapped_s += cost.time_s
            else:
                blocking_s += cost.time_s
        return Waste(num_tokens, blocking_s, overlapped_s)
