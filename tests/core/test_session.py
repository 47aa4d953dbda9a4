"""The rules of the draft stream at the server's end."""

from __future__ import annotations

import pytest

from wisp.core.drafts import Directive, DraftBlock
from wisp.core.request import FinishReason, Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.errors import ProtocolError

PROMPT = [1, 2, 3]
SLO = Slo(tokens_per_s=10, first_token_s=1)


def make_session(max_tokens: int = 20, stop: tuple[int, ...] = ()) -> Session:
    sampling = Sampling(max_tokens=max_tokens, seed=0, stop_token_ids=stop)
    return Session(
        1, PROMPT, sampling, SLO, directive=Directive(8, 0.3), has_edge=True, max_window=8
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
