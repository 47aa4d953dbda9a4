"""The rules of the draft stream at the edge's end, and both ends against each other."""

from __future__ import annotations

import random

import pytest

from wisp.core.drafts import Directive, DraftBlock, Rejection, Verdict
from wisp.core.request import FinishReason, Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.edge.drafter.base import Proposal
from wisp.edge.predictor import ConfidencePredictor
from wisp.edge.stream import Begun, Stream
from wisp.edge.tree import Candidate
from wisp.edge.waste import Cost
from wisp.errors import ProtocolError

DIRECTIVE = Directive(window=4, threshold=0.3)


def make_stream(max_tokens: int = 20) -> Stream:
    stream = Stream([1, 2, 3], max_tokens)
    stream.directive = DIRECTIVE
    return stream


def draft(stream: Stream, *tokens: int, acceptance: float = 1.0) -> None:
    for token in tokens:
        stream.append(token, acceptance, Cost(0.5))


def verdict(position: int, *tokens: int) -> Verdict:
    return Verdict(position=position, tokens=list(tokens), directive=DIRECTIVE)


def test_it_rests_before_the_first_directive() -> None:
    assert not Stream([1], 5).wants_token


def test_it_rests_when_the_window_is_full() -> None:
    stream = make_stream()
    draft(stream, 10, 11, 12)
    assert stream.wants_token
    draft(stream, 13)
    assert not stream.wants_token


def test_it_rests_when_cumulative_acceptance_is_below_the_threshold() -> None:
    stream = make_stream()
    draft(stream, 10, acceptance=0.5)
    assert stream.wants_token
    draft(stream, 11, acceptance=0.5)
    assert not stream.wants_token


def test_it_leaves_the_last_token_to_the_target() -> None:
    stream = make_stream(max_tokens=2)
    draft(stream, 10)
    assert not stream.wants_token


def test_it_rests_where_its_drafter_can_hold_no_more() -> None:
    stream = make_stream()
    stream.limit(4, 4096)
    draft(stream, 10)
    assert stream.wants_token  # behind 4 tokens
    draft(stream, 11)
    assert not stream.wants_token
    block = stream.take_block(8)
    assert block is not None
    assert block.complete  # the server need not wait for more


def test_blocks_are_full_or_complete() -> None:
    stream = make_stream()
    draft(stream, 10)
    assert stream.take_block(2) is None
    draft(stream, 11)
    first = stream.take_block(2)
    assert first is not None
    assert (first.position, first.tokens, first.complete) == (3, [10, 11], False)
    draft(stream, 12, acceptance=0.1)
    last = stream.take_block(2)
    assert last is not None
    assert (last.position, last.tokens, last.complete) == (5, [12], True)
    assert stream.take_block(2) is None


def test_agreement_lets_the_stream_go_on() -> None:
    stream = make_stream()
    draft(stream, 10, 11, 12, 13)
    stream.take_block(1)
    assert stream.take_verdict(verdict(3, 10, 11)) == [10, 11]
    assert (stream.epoch, stream.drafted, stream.waste.num_tokens) == (1, [12, 13], 0)
    draft(stream, 14)
    block = stream.take_block(1)
    assert block is not None
    assert (block.epoch, block.position, block.tokens) == (1, 7, [14])


def test_a_contradiction_begins_a_new_epoch() -> None:
    stream = make_stream()
    draft(stream, 10, 11, 12, 13)
    stream.take_block(1)
    stream.take_verdict(verdict(3, 10, 99))
    assert (stream.epoch, stream.drafted, stream.waste.num_tokens) == (2, [], 3)
    assert stream.waste.time_s == pytest.approx(1.5)
    draft(stream, 20)
    block = stream.take_block(1)
    assert block is not None
    assert (block.epoch, block.position) == (2, 5)


def test_a_verdict_past_all_drafts_keeps_the_epoch() -> None:
    stream = make_stream()
    draft(stream, 10)
    stream.take_block(1)
    stream.take_verdict(verdict(3, 10, 11))
    assert (stream.epoch, stream.drafted) == (1, [])


def test_a_verdict_that_is_partly_known_adds_the_rest() -> None:
    stream = make_stream()
    stream.take_verdict(verdict(3, 10, 11))
    assert stream.take_verdict(verdict(4, 11, 12)) == [12]
    assert stream.committed == [1, 2, 3, 10, 11, 12]


def test_a_gap_in_the_verdicts_is_an_error() -> None:
    with pytest.raises(ProtocolError, match="position 5 came when 3"):
        make_stream().take_verdict(verdict(5, 10))


def test_a_restart_sends_the_drafts_anew() -> None:
    stream = make_stream()
    draft(stream, 10, 11, 12, 13)
    stream.take_block(1)
    stream.reopen()
    block = stream.take_block(1)
    assert block is not None
    assert (block.epoch, block.position, block.tokens) == (2, 3, [10, 11, 12, 13])


@pytest.mark.parametrize("seed", range(50))
def test_both_ends_agree_whatever_the_network_does(seed: int) -> None:
    """Random drafts, delays, duplicates, plain steps and reconnects: the text is the target's.

    Blocks and verdicts travel in order inside one connection, as gRPC gives them; a reconnect
    loses whatever is under way.
    """
    chance = random.Random(seed)
    truth = [chance.randrange(3) for _ in range(60)]
    sampling = Sampling(max_tokens=len(truth), seed=0)
    slo = Slo(tokens_per_s=10, first_token_s=1)
    stream = Stream([7, 7], sampling.max_tokens)

    def connect() -> Session:
        stream.reopen()
        stream.directive = DIRECTIVE
        return Session(
            1, [7, 7], sampling, slo, committed=stream.committed[2:], directive=DIRECTIVE
        )

    session = connect()
    up: list[DraftBlock] = []
    down: list[Verdict] = []
    while len(stream.committed) < 2 + len(truth):
        match chance.randrange(6):
            case 0 | 1 if stream.wants_token:
                right = [*truth, 0][len(stream.committed) + len(stream.drafted) - 2]
                draft(stream, right if chance.random() < 0.7 else chance.randrange(3))
                if block := stream.take_block(chance.choice([1, 2, 4])):
                    up.extend([block] * chance.choice([1, 1, 2]))
            case 2 if up:
                session.offer(up.pop(0), now=0)
            case 3 if not session.finish_reason:
                drafts = session.buffer[: chance.randrange(5)]
                start = session.num_output
                tokens = []
                for position, token in enumerate([*drafts, None], start):
                    tokens.append(truth[position] if position < len(truth) else 0)
                    if tokens[-1] != token:
                        break
                position = len(session.tokens)
                taken = session.commit(tokens, now=0)
                down.append(
                    Verdict(
                        position=position,
                        tokens=taken,
                        directive=DIRECTIVE,
                        finish_reason=session.finish_reason,
                    )
                )
            case 4 if down:
                stream.take_verdict(down.pop(0))
            case 5 if chance.random() < 0.05:
                up, down = [], []
                session = connect()
    assert stream.committed[2:] == truth
    assert session.finish_reason is FinishReason.LENGTH or down == []
    stream.finish()
    assert stream.num_drafted == stream.num_accepted + stream.waste.num_tokens


def fork(stream: Stream, truth: list[int], chance: random.Random) -> None:
    """Something behind any leaf, with alternatives: mostly the truth is among them."""
    leaf = chance.choice(stream.wanted())
    right = [*truth, 0][leaf.position + 1 - 2]
    tokens = [right, *(token for token in range(3) if token != right)]
    if chance.random() < 0.5:
        chance.shuffle(tokens)
    given = [chance.random() for _ in tokens[: chance.randrange(1, 4)]]
    stream.extend(leaf, [Candidate(*pair) for pair in zip(tokens, given, strict=False)], Cost(0.5))


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_both_ends_agree_on_forks_whatever_the_network_does(first: int) -> None:
    """As above, with trees: random forks, and a server that may know more than the edge."""
    assert sum(map(rejections_without_a_pause, range(first, first + 25)))


def rejections_without_a_pause(seed: int) -> int:
    chance = random.Random(seed)
    truth = [chance.randrange(3) for _ in range(60)]
    sampling = Sampling(max_tokens=len(truth), seed=0)
    slo = Slo(tokens_per_s=10, first_token_s=1)
    stream = Stream([7, 7], sampling.max_tokens)
    stream.max_forks = 3
    directive = Directive(window=6, threshold=0.01)
    num_seamless = 0

    def connect() -> Session:
        stream.reopen()
        stream.directive = directive
        return Session(
            1,
            [7, 7],
            sampling,
            slo,
            committed=stream.committed[2:],
            directive=directive,
            max_window=6,
            max_forks=3,
        )

    session = connect()
    up: list[DraftBlock] = []
    down: list[Verdict] = []
    while len(stream.committed) < 2 + len(truth):
        match chance.randrange(8):
            case 0 | 1 | 2 | 3 if stream.wants_token:
                fork(stream, truth, chance)
                if block := stream.take_block(chance.choice([1, 2, 4])):
                    up.extend([block] * chance.choice([1, 1, 2]))
            case 4 | 5 if up:
                session.offer(up.pop(0), now=0)
            case 6 if not session.finish_reason:
                drafts = session.buffer[: chance.randrange(5)]
                tokens = []
                for position, token in enumerate([*drafts, None], session.num_output):
                    tokens.append(truth[position] if position < len(truth) else 0)
                    if tokens[-1] != token:
                        break
                position = len(session.tokens)
                taken = session.commit(tokens, now=0)
                num_seamless += session.stream.rejection is Rejection.SEAMLESS
                down.append(
                    Verdict(
                        position=position,
                        tokens=taken,
                        directive=directive,
                        finish_reason=session.finish_reason,
                    )
                )
            case 7 if down:
                stream.take_verdict(down.pop(0))
                if chance.random() < 0.02:
                    up, down = [], []
                    session = connect()
        if not up and not down:  # what waits is a path of what the edge has drafted
            # Leaves that are not wanted now end paths, too; nobody else asks for them.
            paths = [stream._tree.path(leaf) for leaf in stream._tree.leaves]
            assert any(path[: len(session.buffer)] == session.buffer for path in paths)
    assert stream.committed[2:] == truth
    stream.finish()
    assert stream.num_drafted == stream.num_accepted + stream.waste.num_tokens
    assert stream.num_forked > 0
    assert stream.num_forked_wasted <= stream.num_forked
    return num_seamless


def test_an_alternative_is_drafted_behind_when_it_is_the_best_leaf() -> None:
    stream = make_stream()
    stream.max_forks = 2
    (root,) = stream.wanted()
    stream.extend(root, [Candidate(10, 0.5), Candidate(20, 0.4), Candidate(30, 0.05)])
    main, other, _ = stream.wanted()
    assert (stream.sequence(main), stream.sequence(other)) == ([1, 2, 3, 10], [1, 2, 3, 20])
    stream.extend(main, [Candidate(11, 0.6), Candidate(12, 0.4)])
    assert stream.wanted()[0] is other
    stream.extend(other, [Candidate(21, 0.9)])
    block = stream.take_block(1)
    assert block is not None
    assert (block.epoch, block.tokens) == (1, [10, 11])
    (sent,) = block.forks
    assert (sent.epoch, sent.parent, sent.position, sent.tokens) == (2, 1, 3, [20, 21])
    assert (stream.num_drafted, stream.num_forked) == (4, 2)
    stream.take_verdict(verdict(3, 20))
    assert stream.rejection is Rejection.SEAMLESS
    assert (stream.epoch, stream.drafted, stream.waste.num_tokens) == (2, [21], 2)
    draft(stream, 22)
    more = stream.take_block(1)
    assert more is not None
    assert (more.epoch, more.parent, more.position, more.tokens) == (2, 1, 5, [22])
    stream.take_verdict(verdict(4, 21, 99))
    assert (stream.epoch, stream.num_accepted, stream.num_forked_wasted) == (3, 2, 0)


def test_an_alternative_that_was_not_drafted_behind_begins_an_epoch_when_it_is_chosen() -> None:
    stream = make_stream()
    stream.max_forks = 2
    (root,) = stream.wanted()
    stream.extend(root, [Candidate(10, 0.5), Candidate(20, 0.4)])
    begun = stream.begin(stream.wanted()[1])
    stream.take_block(1)
    stream.take_verdict(verdict(3, 20))
    assert (stream.epoch, stream.drafted, stream.num_accepted) == (2, [], 0)
    assert stream.can_take(begun)  # the token begun behind it is of use


def test_no_more_forks_are_begun_than_the_server_keeps() -> None:
    stream = make_stream()
    stream.max_forks = 1
    (root,) = stream.wanted()
    stream.extend(root, [Candidate(10, 0.4), Candidate(20, 0.35), Candidate(30, 0.3)])
    stream.extend(stream.wanted()[1], [Candidate(21, 1.0)])
    assert [stream.sequence(leaf)[3:] for leaf in stream.wanted()] == [[10], [20, 21]]


def test_a_finished_token_joins_the_stream_unless_a_verdict_overtook_it() -> None:
    stream = Stream([1], 10)
    stream.directive = DIRECTIVE

    def finish(begun: Begun, token: int) -> bool:
        return stream.finish_token(
            begun,
            Proposal(token, 0.8, 0.0, 0.0, 0.0),
            0.5,
            predictor=ConfidencePredictor(),
            temperature=0.0,
            vocab_size=100,
        )

    late = stream.begin(stream.wanted()[0])
    assert finish(stream.begin(stream.wanted()[0]), 7)
    assert not finish(late, 8)
    assert finish(stream.begin(stream.wanted()[0]), 100)  # the target has no such token
    assert stream.drafted == [7, 0]
    block = stream.take_block(2)
    assert block
    assert block.acceptance[1] == 0.0
    assert (stream.num_drafted, stream.waste.num_tokens) == (3, 1)
