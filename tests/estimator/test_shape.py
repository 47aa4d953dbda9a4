from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from wisp.core.batch import Batch, Seat
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.estimator.base import StepShape
from wisp.estimator.basis import NUM_COLUMNS, UNITS, Curve, columns
from wisp.estimator.nnls import nnls
from wisp.estimator.shape import SeatedShape, mean_seat, shape_of


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
    assert shape == (4 + 1 + 150, 103 + 50 + 250, 150.0 * 250)
    assert shape.num_seats == 3
    assert shape_of(Batch()) == (0, 0, 0.0)


def test_a_seated_shape_is_a_step_shape() -> None:
    shape = SeatedShape(5, 100, 0.0, 2)
    num_tokens, num_context, product = shape
    assert (num_tokens, num_context, product) == StepShape(5, 100, 0.0)
    for twin in (copy.copy(shape), pickle.loads(pickle.dumps(shape))):
        assert (twin, twin.num_seats) == (shape, 2)


@pytest.mark.parametrize("shape", [StepShape(385, 9000, 3e6), SeatedShape(77, 50_000, 0.0, 11)])
def test_the_table_says_what_the_columns_say(shape: StepShape) -> None:
    chance = np.random.default_rng(2)
    weights = chance.random(NUM_COLUMNS)
    assert Curve(weights)(shape) == pytest.approx(1e-3 * float(columns(shape) @ weights))
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
    assert mean_seat(SeatedShape(10, 400, 90.0, 4)) == SeatedShape(2, 100, 22.5, 1)
    assert mean_seat(SeatedShape(4, 400, 0.0, 4)).num_seats == 1
