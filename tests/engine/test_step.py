"""A step that verifies own drafts before the host knows them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from wisp.core.batch import Batch, Seat
from wisp.core.drafts import Source
from wisp.core.own_drafts import NOTHING, Proposed
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.engine.step import InFlightStep


@pytest.mark.parametrize("num_made", [0, 2, 3])
def test_own_drafts_that_could_not_be_made_are_not_counted_on(num_made: int) -> None:
    verifier: Any = SimpleNamespace(launch=lambda batch: list)
    slo = Slo(tokens_per_s=10, first_token_s=1)
    session = Session(1, [5], Sampling(max_tokens=50, seed=0), slo, drafts_own=True, overlaps=True)
    first = InFlightStep(Batch([Seat(session, 1, num_own=3)]), None, 0.0, 0.0)
    first.launch(verifier)
    drafts = session.next_drafts(3)
    second = InFlightStep(Batch([Seat(session, 1, drafts, Source.OWN)]), None, 0.0, 0.0)
    second.launch(verifier)
    assert session.num_pending == 1 + 4
    first.landed()
    session.computed(1)
    session.verified(Source.EDGE, 0, [7], 0.0, edge_late=False)
    made = Proposed([8, 9, 10][:num_made], [0.9] * num_made)
    session.proposed(made if num_made else NOTHING)
    second.put_right()
    assert second.num_drafted(0) == num_made
    assert session.num_pending == 1 + num_made
    second.landed()
    session.computed(2)
    assert (session.num_pending, session.num_computed, session.num_missing) == (0, 2, 0)
