"""The table against each session's own word, to the bit."""

from __future__ import annotations

import ast
import inspect
import itertools
import math
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scheduler.worlds import make_session
from wisp.core.drafts import REST, Alternative, Directive, DraftBlock, Source
from wisp.core.session import Session
from wisp.core.table import Table, row_of

NOW = 0.3
EPOCHS = itertools.count(1)


def some_session(number: int, chance: random.Random) -> Session:
    """In any state: before its first token or behind it, with drafts and steps in flight or not."""
    length = chance.randrange(2, 300)
    session = make_session(
        number,
        due_s=chance.uniform(-0.1, 1.0),
        length=length,
        missing=chance.choice([1, 1, 1, length]),
        rate=chance.choice([2.0, 8.0, 60.0]),
        has_edge=chance.random() < 0.8,
    )
    if chance.random() < 0.5:
        session.edge_stats.draft_time_s = chance.uniform(0.005, 0.1)
        session.edge_stats.round_trip_s = chance.uniform(0.0, 0.1)
    for _ in range(chance.randrange(3)):
        happen(session, chance)
    return session


def happen(session: Session, chance: random.Random) -> None:
    """An event of any kind."""
    match chance.randrange(5):
        case 0:
            tokens = [chance.randrange(100) for _ in range(chance.randrange(9))]
            acceptance = [chance.random() for _ in tokens]
            end = len(session.tokens)
            now, complete = chance.uniform(0.0, NOW), chance.random() < 0.3
            session.offer(DraftBlock(next(EPOCHS), end, tokens, acceptance, 0.02, complete), now)
        case 1:
            session.asked(chance.choice([REST, Directive(8, 0.3)]))
        case 2 if session.num_in_flight == 0 and session.decoding:
            num_drafts = min(len(session.at_hand), 3)
            session.launched(1 + num_drafts, 1 + num_drafts)
        case 3 if session.num_in_flight == 0 and session.decoding:
            drafted = session.at_hand[:3]
            session.computed(session.num_computed + 1 + len(drafted))
            now = chance.uniform(0.0, NOW)
            session.verified(Source.EDGE, len(drafted), [*drafted, 7], now, edge_late=False)
        case 4 if session.num_in_flight == 0:
            session.moved(chance.choice([0, session.num_computed]), parked=chance.random() < 0.5)


@st.composite
def loads(draw: st.DrawFn) -> list[Session]:
    chance = random.Random(draw(st.integers(0, 2**32)))
    return [some_session(number, chance) for number in range(draw(st.integers(1, 40)))]


def wait_s(session: Session) -> float:
    edge, stream = session.edge_stats, session.stream
    if not session.directive.window or stream.complete or not edge.draft_time_s:
        return math.inf
    if stream.tokens:
        expected_s = max(stream.arrived_s + edge.draft_time_s, session.committed_s)
    else:
        expected_s = session.committed_s + (edge.round_trip_s or 0.0) + edge.draft_time_s
    return max(edge.draft_time_s, abs(expected_s - NOW))


@settings(deadline=None)
@given(loads())
def test_it_says_of_each_session_what_that_says_itself(sessions: list[Session]) -> None:
    table = Table(sessions)
    waits_s, acceptance, away_s = table.edges(NOW)
    for row, session in enumerate(sessions):
        edge, period_s = session.edge_stats, 1.0 / session.slo.tokens_per_s
        assert table.decoding[row] == session.decoding
        assert table.missing[row] == session.num_missing
        assert table.length[row] == len(session.tokens) + session.num_pending
        assert table.due_s[row] == session.aimed_s + period_s * (session.num_pending > 0)
        assert table.served_s[row] == session.committed_s
        assert table.period_s[row] == period_s
        assert (waits_s[row], away_s[row]) == (wait_s(session), edge.round_trip_s or 0.0)
        assert acceptance[row] == edge.acceptance.rate

        products = [1.0]
        for said in session.drafts.acceptance:
            products.append(products[-1] * min(1.0, said * session.drafts.calibration))
        at_hand = min(len(session.at_hand), max(0, session.max_drafts)) * session.decoding
        first = session.num_pending + 1
        assert table.at_hand[row] == at_hand
        found = table.cumulative[row].tolist()
        assert found[:at_hand] == products[first : first + at_hand]
        assert not any(found[at_hand:])
        here = min(len(products) - 1, session.num_pending + at_hand)
        assert table.unbroken[row] == (products[here] if session.decoding else 1.0)


@settings(deadline=None)
@given(loads(), st.integers(0, 2**32))
def test_whatever_happens_to_a_session_is_seen(sessions: list[Session], seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(5):
        Table(sessions)
        happen(chance.choice(sessions), chance)
        assert all(session.row in (b"", row_of(session)) for session in sessions)


def test_every_event_of_a_session_empties_its_row() -> None:
    """Also those that are written after the test above."""
    (session,) = ast.parse(inspect.getsource(Session)).body
    assert isinstance(session, ast.ClassDef)
    methods = {
        each.name: ast.dump(each) for each in session.body if isinstance(each, ast.FunctionDef)
    }
    store = r"Name\(id='self', ctx=Load\(\)\), attr='(\w+)', ctx=Store\(\)"
    changes = {
        name: set(re.findall(store, method)) - {"row", "said"} for name, method in methods.items()
    }
    events = {name for name, changed in changes.items() if changed and not name.startswith("_")}
    assert {"asked", "launched", "moved", "computed"} <= events
    assert [name for name in events if "attr='row'" not in methods[name]] == ["verified"]
    assert "attr='commit'" in methods["verified"]  # which empties it


def test_a_session_that_nothing_happened_to_is_not_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sessions = [make_session(number, due_s=1.0) for number in range(3)]
    read: list[int] = []
    packed = Session.packed

    def counted(session: Session) -> bytes:
        read.append(session.id)
        return packed(session)

    monkeypatch.setattr(Session, "packed", counted)
    Table(sessions)
    Table(sessions)
    sessions[1].asked(REST)
    Table(sessions)
    assert read == [0, 1, 2, 1]


def test_a_draft_is_worth_what_the_path_and_its_alternatives_bring() -> None:
    """Behind two drafts in flight: the path has one more, and two forks leave it before."""
    session = make_session(1, due_s=1.0, length=20, max_forks=4)
    forks = [
        DraftBlock(2, 20, [7, 8, 9], [0.2, 0.5, 0.5], parent=1),
        DraftBlock(3, 21, [6, 5], [0.1, 0.5], parent=1),
    ]
    session.offer(DraftBlock(1, 20, [1, 2, 3, 4], [0.5] * 4, forks=forks), NOW)
    session.launched(3, 3)
    assert not Table([session]).sessions[0].alternatives(0)
    calibration = session.stream.calibration
    half, fifth, tenth = (min(1.0, calibration * each) for each in (0.5, 0.2, 0.1))
    behind = half**4 + fifth * half + half * tenth * half
    table = Table([session, make_session(2, due_s=1.0)])
    assert table.cumulative[0].tolist() == pytest.approx([behind, fifth * half**2])
    assert table.cumulative[1].tolist() == [0.0, 0.0]
    assert table.at_hand.tolist() == [2, 0]
    assert list(session.alternatives(1)) == [Alternative(0, 7, [8]), Alternative(1, 6, [5])]
    session.landed(3, 3)
    assert Table([session]).at_hand.tolist() == [4]
    assert not session.alternatives(4)
