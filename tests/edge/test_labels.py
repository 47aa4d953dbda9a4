"""What a stream's verdicts tell the predictor: each draft's fate once, and only if it is known."""

from __future__ import annotations

import random

import pytest

from wisp.core.drafts import Directive, Verdict
from wisp.edge.drafter.base import Proposal
from wisp.edge.predictor.base import TYPICAL_ACCEPTANCE, Features
from wisp.edge.stream import RECENT_RATE, Stream

DIRECTIVE = Directive(window=64, threshold=0.0)


def make_stream(*prompt: int) -> Stream:
    stream = Stream(prompt or (1, 2, 3), 100)
    stream.directive = DIRECTIVE
    return stream


def draft(stream: Stream, *tokens: int) -> list[Features]:
    """Each is drafted in turn; returns what was known of it."""
    found = []
    for token in tokens:
        features = stream.features(Proposal(token, 0.7, 1.0, 0.4, 2.0), temperature=0.5)
        stream.append(token, 0.7, features=features)
        found.append(features)
    return found


def verdict(position: int, *tokens: int) -> Verdict:
    return Verdict(position=position, tokens=list(tokens), directive=DIRECTIVE)


def told(stream: Stream) -> list[tuple[int, bool]]:
    return [(label.features.proposal.token, label.accepted) for label in stream.take_labels()]


def test_drafts_are_judged_up_to_the_first_wrong_one() -> None:
    stream = make_stream()
    draft(stream, 10, 11, 12, 13)
    stream.take_verdict(verdict(3, 10, 99))
    assert told(stream) == [(10, True), (11, False)]  # of 12 and 13 nobody can tell
    assert told(stream) == []


def test_the_targets_own_choice_judges_the_draft_beside_it() -> None:
    stream = make_stream()
    draft(stream, 10, 11, 12)
    stream.take_verdict(verdict(3, 10, 11))
    assert told(stream) == [(10, True), (11, True)]
    stream.take_verdict(verdict(5, 12, 13))
    assert told(stream) == [(12, True)]


def test_a_verdict_that_comes_twice_labels_once() -> None:
    stream = make_stream()
    draft(stream, 10, 11, 12)
    stream.take_verdict(verdict(3, 10, 11))
    stream.take_verdict(verdict(3, 10, 11))
    stream.take_verdict(verdict(4, 11, 12))  # partly known
    assert told(stream) == [(10, True), (11, True), (12, True)]


@pytest.mark.parametrize("seed", range(20))
def test_no_position_is_labelled_twice_whatever_comes_again(seed: int) -> None:
    chance = random.Random(seed)
    truth = [chance.randrange(2) for _ in range(80)]
    stream = make_stream(7, 7)
    old: list[Verdict] = []
    judged: list[tuple[int, bool]] = []
    drafted: dict[int, int] = {}
    while len(stream.committed) < 2 + len(truth):
        for _ in range(chance.randrange(4)):
            end = len(stream.committed) + len(stream.drafted)
            drafted[end] = chance.randrange(2)
            draft(stream, drafted[end])
        if chance.random() < 0.3:
            stream.reopen()
        if old and chance.random() < 0.5:
            stream.take_verdict(chance.choice(old))
            assert told(stream) == []
            continue
        start = len(stream.committed)
        tokens = truth[start - 2 : start - 2 + chance.randrange(1, 4)]
        old.append(verdict(start, *tokens))
        stream.take_verdict(old[-1])
        for position, token in enumerate(tokens, start):
            if position not in drafted:
                break
            judged.append((drafted[position], drafted[position] == token))
            if drafted[position] != token:
                break
        drafted = {p: t for p, t in drafted.items() if p >= start + len(tokens)}
        if judged and not judged[-1][1]:
            drafted = {}
        assert told(stream) == judged
        judged = []


def test_drafts_without_features_give_no_labels() -> None:
    stream = make_stream()
    draft(stream, 10)
    stream.append(0, 0.0)  # a drafter's token that the target does not have
    draft(stream, 12)
    stream.take_verdict(verdict(3, 10, 0, 12))
    assert told(stream) == [(10, True), (12, True)]


def test_features_tell_of_the_history() -> None:
    stream = make_stream()
    first, second = draft(stream, 10, 11)
    assert (first.recent, first.run, second.run) == (TYPICAL_ACCEPTANCE, 0, 1)
    stream.take_verdict(verdict(3, 10, 11))
    (third,) = draft(stream, 12)
    once = TYPICAL_ACCEPTANCE + RECENT_RATE * (1 - TYPICAL_ACCEPTANCE)
    assert third.recent == pytest.approx(once + RECENT_RATE * (1 - once))
    assert third.run == 2
    stream.take_verdict(verdict(5, 99))
    (fourth,) = draft(stream, 13)
    assert fourth.recent == pytest.approx(third.recent * (1 - RECENT_RATE))
    assert fourth.run == 0


def test_features_tell_of_repeats_across_committed_and_drafted() -> None:
    stream = make_stream(1, 2, 3, 1)
    assert [f.repeats for f in draft(stream, 2, 3, 9)] == [0, 1, -1]
    stream.take_verdict(verdict(4, 2, 3, 9))
    assert [f.repeats for f in draft(stream, 1, 2, 9)] == [0, 0, -1]
