from __future__ import annotations

import numpy as np
import pytest

from wisp.core.acceptance import Acceptance, cumulative_acceptance


def test_cumulative_acceptance_is_the_running_product_of_calibrated_predictions() -> None:
    acceptance = np.array([[0.8, 1.0, 0.9], [0.5, 1.0, 0.0]])  # of two drafts, three sessions
    found = cumulative_acceptance(acceptance, np.array([1.0, 0.5, 2.0]))
    assert found == pytest.approx(np.array([[0.8, 0.5, 1.0], [0.4, 0.25, 0.0]]))


def test_the_rate_follows_what_is_accepted() -> None:
    acceptance = Acceptance(examined=4.0, accepted=2.0, kept=0.9)
    assert acceptance.rate == 0.5
    for _ in range(20):
        acceptance.learn(4, 4)
    assert acceptance.rate > 0.99


def test_tokens_behind_a_rejected_one_tell_nothing() -> None:
    one, many = (Acceptance(examined=4.0, accepted=2.0, kept=0.9) for _ in range(2))
    one.learn(2, 1)
    many.learn(8, 1)
    assert one == many
    assert one.examined == pytest.approx(0.81 * 4.0 + 1.9)


def test_forgetting_keeps_the_rate() -> None:
    acceptance = Acceptance(examined=40.0, accepted=10.0, kept=0.9)
    acceptance.forget(0.1)
    assert acceptance.rate == pytest.approx(0.25)
    assert acceptance.examined == pytest.approx(4.0)
