"""The replay behind `benchmarks.predictor`, on a text whose rounds can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.predictor import _auc, _false_accept
from benchmarks.predictor_replay import (
    Costs,
    CumulativeAcceptance,
    EntropyBound,
    Fixed,
    Oracle,
    Tally,
    labels,
    replay,
    tune,
)
from benchmarks.predictor_traces import Draft, Trace
from wisp.edge.drafter.base import Proposal
from wisp.edge.predictor import ConfidencePredictor

WINDOW = 4


def make_draft(confidence: float) -> Draft:
    return Draft(Proposal(1, confidence, 2.0 * (1.0 - confidence), confidence, 1.0), repeats=0)


def make_trace(fates: str) -> Trace:
    """`+` is a right draft of confidence 0.9, `-` a wrong one of 0.2."""
    accepted = [fate == "+" for fate in fates]
    drafts = [make_draft(0.9 if right else 0.2) for right in accepted]
    wrong = [index for index, right in enumerate(accepted) if not right]
    beyond = {index: [make_draft(0.9)] * (WINDOW - 1) for index in wrong}
    return Trace(0.0, drafts, accepted, beyond, [float(right) for right in accepted])


TRACE = make_trace("++-+-+++++")


def test_fixed_lengths() -> None:
    # Rounds of the target's text: ++- (drafts ++-), +- (drafts +-+), ++++ and the last token alone.
    tally = replay([TRACE], Fixed(3), WINDOW)
    assert tally == Tally(num_rounds=4, num_drafted=9, num_accepted=6, num_committed=10)
    assert tally.wasted_share == pytest.approx(1 / 3)
    assert tally.goodput(Costs(step=2, round_trip=3)) == pytest.approx(10 / (9 + 4 * 5))


def test_no_drafts_is_a_token_each_round() -> None:
    assert replay([TRACE], Fixed(0), WINDOW) == Tally(10, 0, 0, 10)
    assert Tally(10, 0, 0, 10).wasted_share == 0


def test_the_oracles() -> None:
    assert replay([TRACE], Oracle(foresees=True), WINDOW).wasted_share == 0
    looking = replay([TRACE], Oracle(foresees=False), WINDOW)
    assert looking.num_drafted - looking.num_accepted == 2  # the wrong ones, and nothing behind


@pytest.mark.parametrize(
    "policy", [EntropyBound(1.0), CumulativeAcceptance(ConfidencePredictor(), threshold=0.5)]
)
def test_signs_that_tell_everything_do_as_well_as_looking(
    policy: EntropyBound | CumulativeAcceptance,
) -> None:
    assert replay([TRACE], policy, WINDOW) == replay([TRACE], Oracle(foresees=False), WINDOW)


def test_tuning_finds_the_best_of_each_cost() -> None:
    cheap, dear = Costs(step=0.1, round_trip=0), Costs(step=100, round_trip=0)
    best = tune(lambda length: Fixed(int(length)), (0, 1, 4), [TRACE], WINDOW, [cheap, dear])
    assert best == {cheap: 0, dear: 4}


def test_labels_are_of_all_positions_with_their_history() -> None:
    found = list(labels([TRACE]))
    assert [label.accepted for label in found] == TRACE.accepted
    assert [label.features.run for label in found] == [0, 1, 2, 0, 1, 0, 1, 2, 3, 4]


def test_auc_and_false_accepts() -> None:
    truth = np.array([True] * 10 + [False] * 4)
    predicted = np.array([0.1, *[0.6] * 9, 0.05, 0.5, 0.6, 0.7])
    assert _auc(predicted, truth) == pytest.approx((1 + 9 * 2.5) / 40)
    assert _false_accept(predicted, truth, recall=0.8) == 0.5
