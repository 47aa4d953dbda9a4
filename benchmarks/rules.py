"""The terms of the policy `wisp`, each with what switches it off, and its constants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from wisp.core import session
from wisp.scheduler import decision, guard, speculation, wisp
from wisp.scheduler.decision import Decision
from wisp.scheduler.guard import Guard
from wisp.scheduler.knapsack import DraftPool
from wisp.scheduler.wisp import Wisp

Override = tuple[Any, str, Any]  # whose attribute, its name, and what it is instead


def _all(_: Any, shape: Any, value: float, curve: Any, max_count: int) -> int:
    return max_count


RULES: dict[str, tuple[Override, ...]] = {
    "urgency: who is about to be late weighs more": ((decision, "_URGENCY", 0.0),),
    "starved: who is left out for long weighs more": (
        (decision, "_starved", lambda table, *_: np.zeros(len(table.sessions))),
    ),
    "patience: who had better wait for drafts is left out": ((decision, "_PATIENCE", 0.0),),
    "worth: seats worth less than the step are left out": (
        (decision, "_num_worth_it", lambda density, _: len(density)),
    ),
    "knapsack: only drafts that raise tokens a second": ((DraftPool, "best_count", _all),),
    "pace: prompts in time": ((Decision, "_pace", lambda *_: 0.0),),
    "least chunk: a prompt's seat pays": ((Decision, "_least_chunk", lambda *_: 1.0),),
    "fill: prompts where they cost little": (
        (Decision, "_fill", lambda _, chunks, shape, *__: shape),
    ),
    "finish: a queue of prompts at once": ((Decision, "_finish", lambda *_: None),),
    "resting: no drafts where they gain nothing": ((speculation, "gain", lambda *_: np.inf),),
    "guard: what steps committed decides": ((Guard, "plain", lambda *_: False),),
    "admission: no promise that the time does not allow": ((Wisp, "admits", lambda *_: None),),
    "aim: 3 % above the promise": ((session, "_AIM", 1.0),),
}


def _constant(name: str, value: float, *where: Any) -> tuple[Override, ...]:
    return tuple((module, name, value) for module in where)


# Each constant halved and doubled, or what comes nearest.
SENSITIVITY: dict[str, tuple[Override, ...]] = {
    "_URGENCY 2": _constant("_URGENCY", 2.0, decision),
    "_URGENCY 8": _constant("_URGENCY", 8.0, decision),
    "_PATIENCE 0.75": _constant("_PATIENCE", 0.75, decision),
    "_PATIENCE 3": _constant("_PATIENCE", 3.0, decision),
    "_SAME 0.8": _constant("_SAME", 0.8, decision),
    "_SAME 0.95": _constant("_SAME", 0.95, decision),
    "_NEW 0.1": _constant("_NEW", 0.1, wisp),
    "_NEW 0.4": _constant("_NEW", 0.4, wisp),
    "LEAST 0.01": _constant("LEAST", 0.01, wisp, speculation, guard),
    "LEAST 0.04": _constant("LEAST", 0.04, wisp, speculation, guard),
    "REST_S 2.5": _constant("REST_S", 2.5, speculation, guard),
    "REST_S 10": _constant("REST_S", 10.0, speculation, guard),
}


@contextmanager
def switched_off(rule: str | None) -> Iterator[None]:
    """None: all are on, as they are."""
    with ExitStack() as stack:
        for override in {**RULES, **SENSITIVITY}[rule] if rule else ():
            stack.enter_context(patch.object(*override))
        yield
