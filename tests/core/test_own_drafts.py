from __future__ import annotations

import pytest

from wisp.core.drafts import Directive, DraftBlock, Source
from wisp.core.own_drafts import COMING, OwnDrafts, Proposed
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.core.table import Table

SLO = Slo(tokens_per_s=10, first_token_s=1)


def session(*, overlaps: bool = False) -> Session:
    sampling = Sampling(max_tokens=40, seed=1)
    found = Session(1, [5, 6], sampling, SLO, drafts_own=True, overlaps=overlaps)
    found.computed(1)
    found.commit([7], 0.0)
    found.computed(2)
    return found


def test_they_live_on_as_long_as_they_agree() -> None:
    drafts = OwnDrafts()
    drafts.propose(Proposed([1, 2, 3], [0.9, 0.8, 0.7]))
    drafts.committed([1, 2], 12)
    assert (drafts.tokens, list(drafts.acceptance)) == ([3], [0.7])
    drafts.committed([4], 13)
    assert (drafts.tokens, list(drafts.acceptance)) == ([], [])


def test_new_ones_take_the_place_of_those_before() -> None:
    drafts = OwnDrafts()
    drafts.propose(Proposed([1, 2], [0.9, 0.8]))
    drafts.propose(Proposed([3], [0.5]))
    assert (drafts.tokens, list(drafts.acceptance)) == ([3], [0.5])


def test_a_drafter_that_is_too_sure_of_itself_is_calibrated() -> None:
    drafts = OwnDrafts()
    for _ in range(40):
        drafts.propose(Proposed([1, 2], [1.0, 1.0]))
        drafts.learn(2, 0)  # of which the first alone tells something
    assert drafts.rate < 0.25
    assert drafts.calibration < 0.3
    assert drafts.expected < 0.5


def test_an_edges_drafts_go_first() -> None:
    one = session()
    one.has_edge = True
    one.asked(Directive(8, 0.3))
    one.proposed(Proposed([8, 9], [0.9, 0.9]))
    assert (one.drafts.source, one.at_hand) == (Source.OWN, [8, 9])
    one.offer(DraftBlock(1, 3, [8], [0.9]), 0.0)
    assert (one.drafts.source, one.at_hand) == (Source.EDGE, [8])
    one.verified(Source.EDGE, 1, [8, 9], 0.0, edge_late=False)
    assert one.own_drafts is not None
    assert one.own_drafts.tokens == []  # all of them were chosen, with an edge's help


def test_of_other_sources_the_one_of_which_more_is_expected() -> None:
    text = [5, 6, 7, 5, 6]
    one = Session(1, text, Sampling(max_tokens=40, seed=1), SLO, drafts_own=True, max_ngram=4)
    one.computed(5)
    one.commit([7], 0.0)
    one.computed(5)
    sources = [one.drafts.source]
    assert one.own_rate > 0.0  # half of them, by its prior, is less
    for chances in ([0.2], [0.9] * 4):
        one.proposed(Proposed([5, 6, 7, 5][: len(chances)], chances))
        sources.append(one.drafts.source)
    assert sources == [Source.NGRAM, Source.NGRAM, Source.OWN]


def test_none_are_asked_for_while_n_grams_do_better() -> None:
    text = [5, 6, 7] * 4
    one = Session(1, text, Sampling(max_tokens=400, seed=1), SLO, drafts_own=True, max_ngram=4)
    one.computed(12)
    for _ in range(20):
        count = len(one.at_hand)
        following = [[5, 6, 7][(len(one.tokens) + ahead) % 3] for ahead in range(count + 1)]
        one.verified(one.drafts.source, count, following, 0.0, edge_late=False)
    assert one.drafts.source is Source.NGRAM
    assert one.own_rate == 0.0


def test_drafts_in_the_making_can_be_verified_behind_what_is_chosen() -> None:
    one = session(overlaps=True)
    one.computed(len(one.tokens) - 1)
    one.launched(1, 1, 2)
    assert one.free
    assert (one.next_source, one.next_drafts(4)) == (Source.OWN, [COMING, COMING])
    table = Table([one])
    assert one.own_drafts
    rate = one.own_drafts.rate
    assert table.at_hand.tolist() == [2]
    assert table.cumulative[0].tolist() == pytest.approx([rate, rate**2])
    one.landed(1, 1, 2)
    one.verified(Source.EDGE, 0, [7], 0.0, edge_late=False)
    one.proposed(Proposed([8, 9], [0.9, 0.9]))
    assert (one.next_source, one.next_drafts(4)) == (Source.OWN, [8, 9])


def test_a_session_without_a_drafter_asks_for_nothing() -> None:
    one = Session(1, [5, 6], Sampling(max_tokens=40, seed=1), SLO)
    assert one.own_drafts is None
    assert one.own_rate == 0.0
