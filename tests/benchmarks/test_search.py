"""The search for a capacity finds it in few loads, whatever it is."""

from __future__ import annotations

import pytest

from benchmarks.search import best_capacity, capacity


@pytest.mark.parametrize("truth", [0, 1, 2, 7, 30, 64, 65, 150, 400, 1000])
@pytest.mark.parametrize("start", [1, 32, 300])
def test_the_search_finds_the_capacity(truth: int, start: int) -> None:
    asked: list[int] = []

    def holds(count: int) -> bool:
        asked.append(count)
        return count <= truth

    found = capacity(holds, start, 400, resolution=0.05)
    assert found <= truth
    assert found == 400 or holds(found + max(1, round(0.06 * found) + 1)) is False
    assert len(asked) <= 18


@pytest.mark.parametrize("truths", [[0, 0], [20, 60, 40], [60, 20, 61], [400, 500], [5, 6, 7, 8]])
def test_a_tuning_is_searched_only_where_it_is_the_best_yet(truths: list[int]) -> None:
    asked: list[list[int]] = [[] for _ in truths]

    def holds(number: int, count: int) -> bool:
        asked[number].append(count)
        return count <= truths[number]

    found, best = best_capacity(range(len(truths)), holds, start=12, max_count=400, resolution=0.05)
    assert 0.9 * min(400, max(truths)) <= found <= max(truths)
    assert found <= truths[best]
    for number, truth in enumerate(truths):
        before = max(truths[:number], default=0)
        if number and before >= truth:
            assert len(asked[number]) <= 1 or not before
