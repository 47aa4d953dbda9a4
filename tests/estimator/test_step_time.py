from __future__ import annotations

import itertools
import math
import statistics
import time
from pathlib import Path

import pytest

from tests.estimator.known import known_s, steps
from wisp.estimator.base import DRIFT_ALARM
from wisp.estimator.shape import StepShape
from wisp.estimator.step_time import StepTimeEstimator


def mape(estimator: StepTimeEstimator, seed: int = 99, most_seats: int = 256) -> float:
    shapes = [shape for shape, _ in steps(200, seed, most_seats=most_seats)]
    return sum(abs(estimator.predict_s(s) / known_s(s) - 1) for s in shapes) / len(shapes)


def fitted(number: int = 300, noise: float = 0.03) -> StepTimeEstimator:
    estimator = StepTimeEstimator()
    estimator.fit(steps(number, 1, noise))
    return estimator


def online(number: int, seed: int = 1) -> StepTimeEstimator:
    estimator = StepTimeEstimator()
    for shape, time_s in steps(number, seed):
        estimator.observe(shape, time_s)
    return estimator


def test_a_profile_recovers_a_known_model() -> None:
    assert mape(fitted()) < 0.015
    assert mape(fitted(noise=0.0)) < 0.005


def test_steps_one_by_one_recover_it_too() -> None:
    assert mape(online(400)) < 0.02


def served() -> tuple[list[list[float]], StepTimeEstimator, float]:
    """The steps of a server on an H200 (tokens, context, product, seats, ms), who saw them, and the
    highest drift on the way."""
    path = Path("benchmarks/data/h200_32b_steps_in_turn.csv")
    rows = [[float(value) for value in row.split(",")] for row in path.read_text().split()[1:]]
    estimator, drift = StepTimeEstimator(), 0.0
    for tokens, context, product, seats, took_ms in rows:
        estimator.observe(StepShape(int(tokens), int(context), product, int(seats)), took_ms / 1e3)
        drift = max(drift, estimator.drift)
    return rows, estimator, drift


def test_what_is_hardly_ever_tried_does_not_look_dear() -> None:
    """Steps of a server that fills them up to 128 tokens, and now and then computes prompts: those
    of 129 to 176 tokens are few, and took 23.3 ms in the median."""
    rows, estimator, _ = served()
    few = [row[4] for row in rows if 128 < row[0] <= 176]
    assert len(few) < 0.1 * len(rows)
    predicted_ms = 1e3 * estimator.predict_s(StepShape(144, 36 * 370, 0.0, 36))
    assert predicted_ms == pytest.approx(statistics.median(few), rel=0.05)


def test_the_first_tile_is_a_step_and_no_slope() -> None:
    """Of the same server: more than 64 tokens took a millisecond more, however many, to 128."""
    rows, estimator, _ = served()
    up_to_64, more = (
        statistics.median(row[4] for row in rows if least < row[0] <= most)
        for least, most in ((32, 64), (64, 128))
    )
    assert more - up_to_64 > 1.0
    step, within = (
        estimator.predict_s(StepShape(after, 20 * 370, 0.0, 20))
        - estimator.predict_s(StepShape(before, 20 * 370, 0.0, 20))
        for before, after in ((64, 65), (65, 128))
    )
    assert step > 1e-3
    assert within < 0.2 * step


@pytest.mark.parametrize("number", [0, 1, 5, 40, 400])
def test_no_more_work_takes_less_time(number: int) -> None:
    estimator = online(number)
    times = [estimator.predict_s(StepShape(n, 4000, 0.0, 4)) for n in range(1, 3000)]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(times))
    assert times[0] > 0
    plain = estimator.predict_s(StepShape(10, 100, 0.0, 4))
    assert estimator.predict_s(StepShape(10, 9000, 0.0, 4)) >= plain
    assert estimator.predict_s(StepShape(10, 100, 1e6, 4)) >= plain
    assert estimator.predict_s(StepShape(10, 100, 0.0, 5)) >= plain


def test_a_handful_of_steps_of_a_slow_target_give_sane_numbers() -> None:
    estimator = StepTimeEstimator()
    for shape, time_s in steps(6, 3, slower=40.0):
        estimator.observe(shape, time_s)
    shapes = [shape for shape, _ in steps(100, 4)]
    ratios = [estimator.predict_s(shape) / (40 * known_s(shape)) for shape in shapes]
    assert min(ratios) > 0.5
    assert max(ratios) < 2.0
    assert sum(abs(ratio - 1) for ratio in ratios) / len(ratios) < 0.25
    assert all(estimator.upper_s(s) >= 1.25 * estimator.predict_s(s) for s in shapes)


def test_it_follows_a_change_of_speed() -> None:
    for slower in (1.2, 2.5, 0.6):
        estimator = fitted()
        for shape, time_s in steps(60, 5, slower=slower):
            estimator.observe(shape, time_s)
        shapes = [shape for shape, _ in steps(200, 6)]
        errors = [abs(estimator.predict_s(s) / (slower * known_s(s)) - 1) for s in shapes]
        assert sum(errors) / len(errors) < 0.03, slower


def test_the_alarm_tells_of_the_change_and_ends() -> None:
    estimator = fitted()
    for shape, time_s in steps(200, 7):
        estimator.observe(shape, time_s)
        assert estimator.drift < DRIFT_ALARM
    highest = 0.0
    for shape, time_s in steps(600, 8, slower=1.5):
        estimator.observe(shape, time_s)
        highest = max(highest, estimator.drift)
    assert highest > DRIFT_ALARM
    assert estimator.drift < 2.0


def test_prompts_after_a_minute_of_decoding_are_no_other_target() -> None:
    """Of the server on the H200: its error is 2 %, and 6 to 13 % where many begin at once."""
    *_, drift = served()
    assert drift < DRIFT_ALARM


def test_a_night_of_small_batches_does_not_unlearn_the_large_ones() -> None:
    estimator = fitted()
    for shape, time_s in steps(3000, 9, most_seats=4):
        estimator.observe(shape, time_s)
    assert mape(estimator) < 0.08
    assert mape(estimator, most_seats=4) < 0.02


def test_one_hiccup_changes_little() -> None:
    estimator = fitted()
    shape = StepShape(64, 30_000, 0.0, 16)
    before_s = estimator.predict_s(shape)
    estimator.observe(shape, 5.0)
    for other, time_s in steps(64, 10):
        estimator.observe(other, time_s)
    assert estimator.predict_s(shape) == pytest.approx(before_s, rel=0.02)
    assert estimator.drift < DRIFT_ALARM


def test_95_of_100_steps_keep_below_the_upper_bound() -> None:
    estimator = fitted()
    shown = steps(1000, 11)
    over = sum(time_s > estimator.upper_s(shape) for shape, time_s in shown)
    assert over <= 0.06 * len(shown)


def test_times_that_are_none_are_ignored() -> None:
    estimator = fitted()
    before = estimator.state()
    for time_s in (0.0, -1.0, math.inf, math.nan):
        estimator.observe(StepShape(1, 10, 0.0, 1), time_s)
    assert estimator.state() == before


def test_observing_is_cheap() -> None:
    estimator = fitted()
    shown = steps(640, 13)
    best_s = math.inf
    for first in range(0, 640, 128):
        start_s = time.perf_counter()
        for shape, time_s in shown[first : first + 128]:
            estimator.observe(shape, time_s)
        best_s = min(best_s, time.perf_counter() - start_s)
    assert best_s / 128 < 300e-6  # a sixth of it on an idle machine
