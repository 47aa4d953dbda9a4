"""The rules of the draft stream at the server's end, and what happens to a session."""

from __future__ import annotations

import pytest

from wisp.core.drafts import Directive, DraftBlock, Source
from wisp.core.edge_stats import EdgeStats
from wisp.core.request import FinishReason, Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.errors import ProtocolError

PROMPT = [1, 2, 3]
SLO = Slo(tokens_per_s=10, first_token_s=1)


def make_session(
    max_tokens: int = 20, stop: tuple[int, ...] = (), *, overlaps: bool = False
) -> Session:
    return Session(
        1,
        PROMPT,
        Sampling(max_tokens=max_tokens, seed=0, stop_token_ids=stop),
        SLO,
        directive=Directive(8, 0.3),
        has_edge=True,
        max_window=8,
        overlaps=overlaps,
    )


def block(epoch: int, position: int, *tokens: int, complete: bool = False) -> DraftBlock:
    return DraftBlock(epoch, position, list(tokens), [0.5] * len(tokens), complete=complete)


def test_blocks_join_in_the_buffer() -> None:
    session = make_session()
    session.offer(block(1, 3, 10, 11), now=1)
    session.offer(block(1, 5, 12), now=2)
    assert session.buffer == [10, 11, 12]
    assert session.stream.arrived_s == 2


def test_a_duplicate_changes_nothing() -> None:
    session = make_session()
    session.offer(block(1, 3, 10, 11), now=0)
    session.offer(block(1, 3, 10, 11), now=0)
    assert session.buffer == [10, 11]
    assert len(session.stream.acceptance) == 2


def test_an_older_epoch_is_ignored() -> None:
    session = make_session()
    session.offer(block(2, 3, 10), now=0)
    session.offer(block(1, 3, 99), now=0)
    assert session.buffer == [10]


def test_a_newer_epoch_replaces_the_buffer() -> None:
    session = make_session()
    session.offer(block(1, 3, 10, 11), now=0)
    session.offer(block(2, 3, 20), now=0)
    assert session.buffer == [20]


def test_a_gap_is_an_error() -> None:
    session = make_session()
    with pytest.raises(ProtocolError, match="position 4 but the stream ends at 3"):
        session.offer(block(1, 4, 10), now=0)


def test_a_rewrite_inside_an_epoch_is_an_error() -> None:
    session = make_session()
    session.offer(block(1, 3, 10, 11), now=0)
    with pytest.raises(ProtocolError, match="rewrites position 4"):
        session.offer(block(1, 4, 12), now=0)


def test_more_than_the_hard_cap_is_an_error() -> None:
    session = make_session()
    session.offer(block(1, 3, *range(8)), now=0)
    with pytest.raises(ProtocolError, match="9 draft tokens are waiting but at most 8"):
        session.offer(block(1, 11, 8), now=0)


def test_a_block_beyond_the_hard_cap_is_an_error_even_if_it_is_stale() -> None:
    session = make_session()
    session.commit([9], now=0)
    with pytest.raises(ProtocolError, match="9 draft tokens are waiting but at most 8"):
        session.offer(block(1, 3, *range(9)), now=0)


def test_a_late_block_loses_the_agreeing_part() -> None:
    session = make_session()
    session.commit([10, 11], now=0)
    session.offer(block(1, 3, 10, 11, 12), now=0)
    assert session.buffer == [12]


def test_a_late_block_that_disagrees_kills_its_epoch() -> None:
    session = make_session()
    session.commit([10], now=0)
    session.offer(block(1, 3, 99, 12), now=0)
    session.offer(block(1, 5, 13), now=0)  # more of the dead epoch: no gap, simply ignored
    assert session.buffer == []
    session.offer(block(2, 4, 12), now=0)
    assert session.buffer == [12]


def test_the_buffer_lives_on_behind_an_agreeing_commit() -> None:
    session = make_session()
    session.offer(block(1, 3, 10, 11, 12, 13), now=0)
    session.commit([10, 11, 12], now=0)  # two drafts verified, and the own choice agrees
    assert session.buffer == [13]
    assert len(session.stream.acceptance) == 1


def test_the_own_choice_kills_a_contradicting_rest() -> None:
    session = make_session()
    session.offer(block(1, 3, 10, 11, 12), now=0)
    session.commit([10, 99], now=0)
    session.offer(block(1, 6, 13), now=0)
    assert session.buffer == []


def test_plain_decoding_past_the_buffer_keeps_the_epoch() -> None:
    session = make_session()
    session.offer(block(1, 3, 10), now=0)
    session.commit([10, 11], now=0)
    session.offer(block(1, 4, 11, 12), now=0)
    assert session.buffer == [12]


def test_a_complete_block_rests_until_the_buffer_is_used_up() -> None:
    session = make_session()
    session.offer(block(1, 3, 10, 11, complete=True), now=0)
    assert session.edge_resting
    session.commit([10], now=0)
    assert session.edge_resting  # the edge still waits, with one draft left
    session.commit([11, 12], now=0)
    assert not session.edge_resting


def test_a_block_before_the_first_position_of_a_resumed_output() -> None:
    sampling = Sampling(max_tokens=5, seed=0)
    session = Session(1, PROMPT, sampling, SLO, committed=[10, 11])
    assert session.num_output == 2
    session.offer(block(1, 5, 12), now=0)
    session.commit([12, 13, 14], now=0)
    assert session.finish_reason is FinishReason.LENGTH


def test_commit_ends_at_a_stop_token() -> None:
    session = make_session(stop=(7,))
    assert session.commit([10, 7, 12], now=0) == [10, 7]
    assert session.finish_reason is FinishReason.STOP


def test_commit_ends_at_the_limit() -> None:
    session = make_session(max_tokens=2)
    assert session.commit([10, 11, 12], now=0) == [10, 11]
    assert session.finish_reason is FinishReason.LENGTH


def test_a_commit_sets_the_next_deadline() -> None:
    session = make_session()
    assert session.due_s == pytest.approx(1)
    session.commit([10], now=0.5)
    assert session.due_s == pytest.approx(0.6)


@pytest.mark.parametrize("resumed", [[], [20, 21]])
@pytest.mark.parametrize("first_s", [0.2, 3.0])
def test_the_promised_rate_begins_with_the_first_token(resumed: list[int], first_s: float) -> None:
    """However early it is: a rate from there on is what the user sees."""
    session = Session(1, PROMPT, Sampling(max_tokens=20, seed=0), SLO, committed=resumed, now=0.0)
    assert session.promised_s == 1.0
    session.commit([10], now=first_s)
    assert session.promised_s == pytest.approx(first_s + 0.1)
    session.commit([11, 12], now=first_s + 0.1)
    assert session.promised_s == pytest.approx(first_s + 0.3)
    assert first_s + 0.25 < session.aimed_s < session.promised_s


def test_drafts_of_the_edge_come_before_those_of_the_text_itself() -> None:
    sampling = Sampling(max_tokens=20, seed=0)
    session = Session(1, [5, 6, 7, 5, 6], sampling, SLO, has_edge=True, max_ngram=2)
    session.commit([7], now=0)
    assert (session.drafts.source, session.drafts.tokens) == (Source.NGRAM, [5, 6])
    session.offer(block(1, 6, 9), now=0)
    assert (session.drafts.source, session.drafts.tokens) == (Source.EDGE, [9])
    session.commit([5], now=0)  # contradicts the edge, and the text repeats itself on
    assert (session.drafts.source, session.drafts.tokens) == (Source.NGRAM, [6, 7])


def test_what_is_verified_teaches_its_source_alone() -> None:
    sampling = Sampling(max_tokens=20, seed=0)
    session = Session(
        1, [5, 6, 7, 5, 6], sampling, SLO, directive=Directive(8, 0.3), has_edge=True, max_ngram=2
    )
    session.commit([7], now=0)
    (before,) = set(session.drafts.acceptance)
    taken = session.verified(Source.NGRAM, 2, [5, 6, 7], 0.0, edge_late=False)
    assert taken == [5, 6, 7]
    assert min(session.drafts.acceptance) > before
    edge = session.edge_stats
    assert edge.acceptance == EdgeStats().acceptance
    assert (edge.num_committed, edge.verified, edge.from_edge) == (3, 0.0, 0.0)
    session.offer(block(1, 9, 5, 6), now=0)
    session.verified(Source.EDGE, 2, [5, 8], 0.0, edge_late=False)
    assert edge.acceptance.rate < EdgeStats().acceptance.rate
    assert (edge.num_committed, edge.verified, edge.from_edge) == (5, 2.0, 1.0)


def test_a_step_may_follow_the_one_in_flight_as_if_its_drafts_were_accepted() -> None:
    session = make_session(overlaps=True)
    session.computed(2)
    session.offer(block(1, 3, 5, 6, 7, 8), now=0)
    session.launched(3, 3)  # two drafts
    assert session.free
    assert (session.num_missing, session.num_computed, session.buffer) == (1, 5, [8])
    session.launched(2, 2)
    assert not session.free
    session.landed(3, 3)
    session.computed(3)  # the first draft was rejected
    assert session.num_computed == 5
    session.commit([9], now=0.0)
    assert (session.num_missing, session.at_hand) == (1, [])
    session.landed(2, 2)
    session.computed(4)
    assert (session.num_in_flight, session.num_pending, session.num_computed) == (0, 0, 4)


def test_nothing_follows_a_step_that_was_decided_on_by_what_proved_wrong() -> None:
    """A prompt's first chunk found the rest of it in the verifier's cache, and chose a token."""
    session = make_session(overlaps=True)
    session.launched(1, 0)
    session.launched(1, 0)  # the second chunk of three
    session.landed(1, 0)
    session.computed(3, as_planned=False)
    session.commit([9], now=0.0)
    assert not session.free
    session.landed(1, 0)
    session.computed(4)
    session.commit([8], now=0.0)
    assert (session.free, session.num_missing) == (True, 1)


def test_no_step_follows_the_last_token_or_where_the_host_helps_to_choose() -> None:
    session = make_session(overlaps=True, max_tokens=3)
    session.launched(3, 2)
    assert (session.free, session.max_drafts) == (True, 0)
    session.landed(3, 2)
    session.launched(4, 3)
    assert not session.free
    alone = make_session()
    alone.launched(1, 1)
    assert not alone.free


def test_a_late_edge_is_waited_for_again_when_it_sends() -> None:
    session = make_session()
    session.verified(Source.EDGE, 0, [10], 0.0, edge_late=True)
    assert not session.waits_for_edge
    session.offer(block(1, 4, 11), now=0)
    assert session.waits_for_edge
