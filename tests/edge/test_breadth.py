"""How many branches a step of the drafter takes: what brings the most expected tokens a second."""

from __future__ import annotations

import pytest

from wisp.edge.breadth import Breadth


def measured(*times_s: float) -> Breadth:
    breadth = Breadth()
    for size, time_s in enumerate(times_s, 1):
        breadth.observe(size, time_s)
    return breadth


CHANCES = [0.8, 0.3, 0.1, 0.02]


@pytest.mark.parametrize(
    ("times_s", "best"),
    [
        ((1.0, 2.0, 3.0, 4.0), 1),  # each costs as much as the first
        ((1.0, 1.0, 1.0, 1.0), 4),  # they cost nothing
        ((1.0, 1.2, 1.4, 1.6), 2),
        ((1.0, 1.5, 1.0, 1.0), 4),  # a size that is worse than the next is passed over
        ((0.0, 0.0, 1.0, 1.0), 2),  # a coarse clock tells them from nothing
        ((1.0,), 1),  # what was never seen is taken to be as dear for each
    ],
)
def test_as_many_as_pay(times_s: tuple[float, ...], best: int) -> None:
    assert measured(*times_s).best(CHANCES) == best


def test_everybody_has_a_token_before_anybody_has_two() -> None:
    assert measured(1.0, 1.9, 2.8, 3.7).best([0.9, 0.1, 0.3, 0.2], num_needed=2) == 2


def test_nothing_is_known_before_the_first_step() -> None:
    assert Breadth().best(CHANCES, num_needed=1) == 1


def test_a_device_that_slows_down_is_followed_and_one_prompt_is_not() -> None:
    breadth = measured(1.0, 1.1)
    breadth.observe(2, 50.0)
    for _ in range(3):
        breadth.observe(2, 1.1)
    assert breadth.best([0.8, 0.3]) == 2
    for _ in range(20):
        breadth.observe(2, 2.0)
    assert breadth.best([0.8, 0.3]) == 1
