"""What a front sends to an engine under test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import structs

from wisp.core.drafts import Directive, DraftBlock
from wisp.core.request import Request, Sampling
from wisp.core.slo import Slo
from wisp.engine.messages import Draft, Open

DIRECTIVE = Directive(window=8, threshold=0.3)
PROMPT = [5, 6, 7]


def opening(session_id: int = 1, *, has_edge: bool = False, **sampling: Any) -> Open:
    asked: dict[str, Any] = {"max_tokens": 10, "seed": 3} | sampling
    return Open(
        session_id=session_id,
        request=Request(prompt=PROMPT, sampling=Sampling(**asked)),
        slo=Slo(tokens_per_s=10, first_token_s=1),
        has_edge=has_edge,
    )


def block(epoch: int, position: int, tokens: list[int], parent: int = 0) -> DraftBlock:
    """One that begins inside another epoch begins with an unlikely token."""
    acceptance = [0.9] * len(tokens)
    if parent:
        acceptance[:1] = [0.05]
    return DraftBlock(epoch, position, tokens, acceptance, parent=parent)


def draft(
    session_id: int,
    epoch: int,
    position: int,
    tokens: list[int],
    now: float = 0.0,
    forks: Sequence[DraftBlock] = (),
) -> Draft:
    whole = structs.replace(block(epoch, position, tokens), forks=list(forks))
    return Draft(session_id, whole, now)
