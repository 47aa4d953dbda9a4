from __future__ import annotations

import numpy as np
import pytest

from wisp.core.batch import Batch, Seat
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.estimator.curve import NUM_COLUMNS, UNITS, columns, curve_of
from wisp.estimator.fit import nnls
from wisp.estimator.shape import EMPTY, StepShape, shape_of


def session(num_tokens: int, num_computed: int) -> Session:
    sampling = Sampling(max_tokens=8, seed=1)
    made = Session(1, [1] * num_tokens, sampling, Slo(tokens_per_s=1.0, first_token_s=1.0))
    made.computed(num_computed)
    return made


def test_the_shape_of_a_batch() -> None:
    batch = Batch(
        [
            Seat(session(100, 99), 1, [5, 6, 7]),  # decodes, with three drafts
            Seat(session(50, 49), 1),  # decodes
            Seat(session(300, 100), 150),  # a chunk in the middle of its prompt
        ]
    )
    shape = shape_of(batch)
    assert shape == (4 + 1 + 150, 103 + 50 + 250, 150.0 * 250, 3)
    assert shape_of(Batch()) == EMPTY


def test_two_shapes_joined_are_the_shape_of_both_batches() -> None:
    seats = [Seat(session(100, 99), 1, [5, 6]), Seat(session(300, 100), 150)]
    parts = [shape_of(Batch([seat])) for seat in seats]
    assert parts[0].joined(parts[1]) == shape_of(Batch(seats))
    assert parts[0] != parts[0].joined(StepShape(0, 0, 0.0, 1))  # the seats count


@pytest.mark.parametrize(
    "shape",
    [EMPTY, StepShape(1, 1, 0.0, 1), StepShape(385, 9000, 3e6, 9), StepShape(77, 50_000, 0.0, 77)],
)
def test_the_curve_says_what_the_columns_say(shape: StepShape) -> None:
    weights = np.random.default_rng(2).random(NUM_COLUMNS)
    curve = curve_of(weights)
    told_s = 1e-3 * float(columns(shape) @ weights)
    assert curve.time_s(shape) == pytest.approx(told_s)
    tokens_s = float(curve.tokens_s(np.array([shape.num_tokens]))[0])
    assert curve.rest_s(shape) + tokens_s == pytest.approx(told_s)
    assert (UNITS > 0).all()


def test_nnls_meets_its_conditions_from_any_start() -> None:
    chance = np.random.default_rng(3)
    for _ in range(20):
        rows, goal = chance.normal(size=(30, 12)), chance.normal(size=30)
        gram, target = rows.T @ rows, rows.T @ goal
        found = nnls(gram, target, np.zeros(12))
        gradient = target - gram @ found
        assert (found >= 0).all()
        assert (gradient <= 1e-6).all()  # no weight would help by growing
        assert gradient[found > 0] == pytest.approx(0.0, abs=1e-6)
        assert nnls(gram, target, chance.random(12)) == pytest.approx(found, abs=1e-9)


def test_the_mean_seat_of_a_step() -> None:
    assert StepShape(10, 400, 90.0, 4).mean_seat() == StepShape(2, 100, 22.5, 1)
    assert StepShape(4, 400, 0.0, 4).mean_seat().num_seats == 1
