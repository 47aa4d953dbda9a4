"""The rules of the policy `wisp`, each with what switches it off from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from wisp.core import session
from wisp.scheduler import plan, speculation, wisp
from wisp.scheduler.columns import Columns
from wisp.scheduler.plan import Plan
from wisp.scheduler.speculation import Load
from wisp.scheduler.wisp import Wisp

Override = tuple[Any, str, Any]  # whose attribute, its name, and what it is instead


def _forced(method: str, **load: Any) -> Override:
    """A method of `Wisp` that returns a load, with these fields of it as given."""
    original: Callable[..., Load] = getattr(Wisp, method)

    def forced(policy: Any, *arguments: Any) -> Load:
        return original(policy, *arguments)._replace(**load)

    return Wisp, method, forced


def _nobody(where: Any, *_: Any) -> Any:
    return np.zeros(len(where._columns.sessions), dtype=bool)


def _by_deadline(method: str) -> Override:
    """A method of `Plan` that is given rows, with them in the order of their deadlines."""
    original: Callable[..., Any] = getattr(Plan, method)

    def sorted_first(where: Any, rows: Any, *more: Any) -> Any:
        return original(where, where._order[np.isin(where._order, rows)], *more)

    return Plan, method, sorted_first


def _tighten_with_lost(where: Any, rows: Any) -> None:
    slack_s = where._slack_s[rows][where.decodes[rows]]
    where.limit_s = min(where.limit_s, float(slack_s.min(initial=np.inf)))


def _decode_all(where: Any, rows: Any, max_seats: int) -> None:
    where._decode(rows[: max(0, max_seats)])


RULES: dict[str, tuple[Override, ...]] = {
    "poor: who brings few tokens for its time is held": ((Plan, "_poor", _nobody),),
    "early: seated before it is urgent": ((plan, "_MAX_EARLY_S", 0.0),),
    "scarce: drafts before plain tokens": (_forced("_gauged", scarce=False),),
    "lift_limit: where scarce, no deadline bars drafts": ((Plan, "lift_limit", lambda _: None),),
    "lost deadlines of late sessions wait": ((plan, "_LATE", 2.0),),
    "lost deadlines limit no step": ((Plan, "_tighten", _tighten_with_lost),),
    "deadlines limit a step": (
        (Plan, "_tighten", lambda *_: None),
        (Plan, "_decode_within", _decode_all),
    ),
    "longest text first": (_by_deadline("_decode_within"), _by_deadline("_whole")),
    "eager: decoded while drafts come": (_forced("_gauged", eager=False),),
    "held: who waits for drafts is left out": (_forced("_gauged", eager=True),),
    "free steps take those held": ((plan, "free_tokens", lambda *_: 0),),
    "fits: all seated if there is room": (_forced("_gauged", fits=False),),
    "heavy: only where seats are dear": ((wisp, "_HEAVY", -1.0),),
    "whole: none seated without its drafts": (
        (Plan, "_whole", lambda where, rows: where._draft_room),
    ),
    "waiting for drafts in time": (
        (Columns, "expected_s", lambda columns: np.full(len(columns.sessions), -np.inf)),
    ),
    "prompts are urgent in time": ((Plan, "_prompt_urgent", _nobody),),
    "least chunk of a late prompt": ((plan, "_MIN_CHUNK", 0),),
    "admission": ((Wisp, "admits", lambda *_: None),),
    "aim: 3 % above the promise": ((session, "_AIM", 1.0),),
    "resting: no drafts where they gain nothing": ((speculation, "gain", lambda *_: np.inf),),
    "hysteresis of resting": (
        (speculation, "_ENTER", 1.0),
        (speculation, "_LEAVE", 1.0),
        (speculation, "_DWELL_S", 0.0),
    ),
    "probing of resting edges": ((speculation, "_PROBE_S", np.inf),),
}


@contextmanager
def switched_off(rule: str | None) -> Iterator[None]:
    """None: all are on."""
    with ExitStack() as stack:
        for override in RULES[rule] if rule else ():
            stack.enter_context(patch.object(*override))
        yield
