"""Epochs as a tree: what lives, what dies, which path is verified, and what an edge may not do."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wisp.core.draft_stream import DraftStream
from wisp.core.drafts import Alternative, DraftBlock, Rejection
from wisp.core.edge_stats import EdgeStats
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.errors import ProtocolError

PROMPT = [1, 2, 3]
MAX_FORKS = 3


def make_session(max_forks: int = MAX_FORKS) -> Session:
    slo = Slo(tokens_per_s=10, first_token_s=1)
    sampling = Sampling(max_tokens=40, seed=0)
    return Session(1, PROMPT, sampling, slo, has_edge=True, max_window=8, max_forks=max_forks)


def block(
    epoch: int,
    position: int,
    *tokens: int,
    parent: int = 0,
    acceptance: float = 0.5,
    forks: Sequence[DraftBlock] = (),
) -> DraftBlock:
    given = [acceptance] * len(tokens)
    return DraftBlock(epoch, position, list(tokens), given, parent=parent, forks=list(forks))


def forked() -> Session:
    """[10 11 12], and behind 10 [20 21], and behind 20 [30]."""
    session = make_session()
    forks = [
        block(2, 4, 20, 21, parent=1, acceptance=0.3),
        block(3, 5, 30, parent=2, acceptance=0.3),
    ]
    session.offer(block(1, 3, 10, 11, 12, forks=forks), now=0)
    return session


def test_the_path_with_most_expected_tokens_is_verified() -> None:
    session = forked()
    assert session.buffer == [10, 11, 12]
    session.offer(block(2, 6, 22, 23, acceptance=0.9), now=0)
    assert session.buffer == [10, 11, 12]  # 0.88 expected against 0.77
    session.offer(block(4, 3, 40, 41, parent=1, acceptance=0.9), now=0)
    assert session.buffer == [40, 41]


def test_forks_are_alternatives_to_what_a_step_in_flight_may_choose() -> None:
    session = forked()
    session.launched(3, 3)
    session.offer(block(4, 5, 50, 51, parent=1, acceptance=0.9), now=0)
    session.offer(block(1, 6, 13), now=0)
    found, by_place = session.stream.alternatives(3)  # two drafts, and the choice behind them
    assert found == [Alternative(1, 20, [21]), Alternative(2, 50, [51])]
    calibration = session.stream.calibration
    first, other = 0.5 * calibration, min(1.0, 0.3 * calibration)
    last = min(1.0, 0.9 * calibration)
    assert by_place == [pytest.approx(first * other**2 + first**2 * last**2)]
    assert session.stream.alternatives(1) == ([], [])  # all paths begin with that token
    assert session.stream.alternatives(2)[0] == [Alternative(1, 20, [21])]


def test_the_alternative_that_a_step_took_is_gone_on_with() -> None:
    session = forked()
    session.offer(block(2, 6, 22), now=0)
    session.launched(3, 3)
    session.launched(2, 2)
    session.landed(3, 3)
    session.commit([10, 20], now=1)
    assert session.stream.tokens == [21, 22]  # more of it can be expected
    session.follow([30])
    assert session.stream.tokens == [30]
    session.offer(block(2, 7, 23, 24, acceptance=0.9), now=0)
    assert session.stream.tokens == [30]
    session.follow([77])  # nobody's any more
    assert session.stream.tokens == [30]


def test_a_choice_that_is_a_forks_token_makes_it_the_live_stream() -> None:
    session = forked()
    session.commit([10, 20], now=0)
    assert session.buffer == [21]
    assert session.stream.rejection is Rejection.SEAMLESS
    session.offer(block(2, 6, 22), now=0)
    assert session.buffer == [21, 22]
    session.commit([30], now=0)  # the fork's own fork, which ends there
    assert (session.buffer, session.stream.rejection) == ([], Rejection.COVERED)
    session.offer(block(3, 6, 31), now=0)
    assert session.buffer == [31]


def test_a_fork_that_takes_over_is_waited_for_no_longer() -> None:
    """Its edge may have nothing to add, and would not say so."""
    session = forked()
    assert not session.stream.complete
    session.commit([10, 20], now=0)
    assert session.stream.complete
    session.offer(block(2, 6, 22), now=0)
    assert not session.stream.complete  # it had


def test_a_choice_that_no_fork_has_kills_all() -> None:
    session = forked()
    session.commit([10, 99], now=0)
    assert (session.buffer, session.stream.num_branches) == ([], 0)
    assert session.stream.rejection is Rejection.UNCOVERED
    for late in (block(1, 6, 13), block(2, 6, 22), block(3, 6, 31), block(5, 6, 1, parent=3)):
        session.offer(late, now=0)
    assert session.buffer == []
    session.commit([7], now=0)
    assert session.stream.rejection is None  # there was nothing to reject


def test_agreement_is_no_rejection() -> None:
    session = forked()
    session.commit([10, 11], now=0)
    assert (session.buffer, session.stream.rejection) == ([12], None)
    assert session.stream.num_branches == 1


def test_a_fork_may_come_after_its_parent_died_beyond_it() -> None:
    session = make_session()
    session.offer(block(1, 3, 10, 11, 12), now=0)
    session.commit([10, 20], now=0)
    session.offer(block(2, 4, 20, 21, parent=1), now=0)  # where its parent was right still
    assert session.buffer == [21]


def test_a_fork_behind_what_its_parent_had_wrong_is_dead() -> None:
    session = make_session()
    session.offer(block(1, 3, 10, 11, 12), now=0)
    session.commit([10, 20], now=0)
    session.offer(block(2, 5, 21, parent=1), now=0)
    session.offer(block(3, 5, 21, parent=2), now=0)
    assert (session.buffer, session.stream.num_branches) == ([], 0)


def test_an_epoch_without_a_parent_replaces_the_tree() -> None:
    session = forked()
    session.offer(block(4, 3, 40), now=0)
    session.offer(block(3, 6, 31), now=0)  # late
    session.offer(block(2, 6, 22, parent=1), now=0)
    assert (session.buffer, session.stream.num_branches) == ([40], 1)


def test_a_fork_of_what_was_never_sent_is_ignored() -> None:
    session = make_session()
    session.offer(block(1, 3, 10), now=0)
    session.offer(block(7, 4, 50, 51, parent=6), now=0)
    assert (session.buffer, session.stream.num_branches) == ([10], 1)


def test_a_path_in_flight_stays_chosen_while_it_lives() -> None:
    session = forked()
    session.launched(3, 3)
    session.offer(block(4, 3, 40, 41, parent=1, acceptance=0.9), now=0)
    assert session.stream.tokens == [10, 11, 12]
    session.landed(3, 3)
    session.commit([40], now=0)
    assert session.buffer == [41]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (block(4, 9, 1, parent=1), "starts at position 9 but the stream ends at 6"),
        (block(2, 5, 99), "rewrites position 5 inside epoch 2"),
        (block(2, 6, *range(6)), "9 draft tokens are waiting but at most 8 may"),
        (block(1, 6, forks=[block(9, 4, *range(9), parent=1)]), "9 draft tokens"),
        (
            block(1, 6, forks=[block(e, 4, e, parent=1) for e in (5, 6)]),
            "4 forks are waiting but at most 3 may",
        ),
    ],
)
def test_a_rule_that_a_fork_breaks(wrong: DraftBlock, sentence: str) -> None:
    with pytest.raises(ProtocolError, match=sentence):
        forked().offer(wrong, now=0)


def test_a_server_without_forks_takes_none() -> None:
    session = make_session(max_forks=0)
    session.offer(block(1, 3, 10), now=0)
    with pytest.raises(ProtocolError, match="1 forks are waiting but at most 0 may"):
        session.offer(block(2, 3, 20, parent=1), now=0)


class World:
    """Epochs as an edge may make them, and a text that goes on whatever they are."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.committed = [0]
        self.stream = DraftStream(EdgeStats(), max_window=10**6, now=0.0, max_forks=10**6)
        self.paths: dict[int, list[int]] = {}  # of each epoch, from the text's beginning on
        self.root = 0
        self.sent: list[DraftBlock] = []

    def draft(self) -> None:
        """A new epoch, or more of an old one."""
        chance = self.chance
        tokens = [chance.randrange(2) for _ in range(chance.randrange(4))]
        given = [chance.random() for _ in tokens]  # what it says of them need not be so
        epoch, parent = len(self.paths) + 1, 0
        kind = chance.randrange(10) if self.paths else 0
        if kind == 0:
            self.root = epoch
            known = chance.randrange(len(self.committed)) + 1  # verdicts may be on their way
            self.paths[epoch] = self.committed[:known]
        elif kind < 5:
            parent = chance.randrange(self.root, epoch)
            position = chance.randrange(len(self.paths[parent])) + 1
            self.paths[epoch] = self.paths[parent][:position]
        else:
            epoch = chance.randrange(self.root, epoch)
        position = len(self.paths[epoch])
        self.paths[epoch] = self.paths[epoch] + tokens
        self.sent.append(DraftBlock(epoch, position, tokens, given, parent=parent))
        self.offer(self.sent[-1])

    def offer(self, message: DraftBlock) -> None:
        self.stream.offer(message, self.committed, 0.0)

    def commit(self) -> None:
        tokens = [self.chance.randrange(2) for _ in range(1 + self.chance.randrange(3))]
        if self.chance.random() < 0.7:  # mostly what was drafted, and then something else
            tokens = [*self.stream.tokens[: len(tokens)], *tokens[:1]]
        self.committed += tokens
        self.stream.committed(tokens, len(self.committed))

    def waiting(self) -> dict[int, list[int]]:
        """What must live: all that agrees with the text, since the last root."""
        end = len(self.committed)
        return {
            epoch: path[end:]
            for epoch, path in self.paths.items()
            if epoch >= self.root and path[:end] == self.committed[: len(path)]
        }

    def found(self) -> dict[int, list[int]]:
        # What waits shows nowhere else: of the tree one path is seen at a time.
        return {epoch: branch.tokens for epoch, branch in self.stream._live.items()}


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False))
def test_exactly_what_agrees_with_the_text_lives(chance: random.Random) -> None:
    world = World(chance)
    for _ in range(25):
        match chance.randrange(4):
            case 0 | 1:
                world.draft()
            case 2:
                world.commit()
            case 3 if world.sent:  # a duplicate, however late: it changes nothing
                before = world.found()
                world.offer(chance.choice(world.sent))
                assert world.found() == before
        waiting = world.waiting()
        assert world.found() == waiting
        assert world.stream.tokens in (list(waiting.values()) or [[]])
