from __future__ import annotations

import pytest

from tests.estimator.known import known_s, steps
from wisp.core.batch import Batch
from wisp.engine.profiling import profile
from wisp.estimator.shape import StepShape, shape_of
from wisp.estimator.step_time import StepTimeEstimator
from wisp.testing.clock import VirtualClock
from wisp.testing.verifier import ScriptedVerifier


class Bench:
    """A scripted target whose steps advance a virtual clock by a known model."""

    def __init__(self, slower: float = 1.0, max_sessions: int = 32, max_len: int = 2048) -> None:
        self.clock = VirtualClock()
        self.slower = slower
        self.verifier = ScriptedVerifier(
            max_sessions=max_sessions, max_model_len=max_len, on_step=self._on_step
        )

    def _on_step(self, batch: Batch) -> None:
        assert batch.num_tokens <= 1024
        self.clock.now += self.slower * known_s(shape_of(batch))

    def profile(self, budget_s: float = 20.0) -> list[tuple[StepShape, float]]:
        found = profile(
            self.verifier, max_step_tokens=1024, max_window=8, budget_s=budget_s, clock=self.clock
        )
        assert self.verifier.num_open == 0
        assert all(shape.num_tokens for shape, _ in found)
        return found


def test_the_grid_covers_batches_drafts_contexts_and_chunks() -> None:
    found = Bench().profile()
    shapes = [shape for shape, _ in found]
    decoding = [shape for shape in shapes if not shape.prefill_product]
    assert {shape.num_seats for shape in decoding} == {1, 4, 16, 32}
    assert {shape.num_tokens // shape.num_seats - 1 for shape in decoding} == {0, 1, 2, 4, 8}
    each = {shape.num_context // shape.num_seats for shape in decoding}
    assert min(each) < 100
    assert max(each) > 1500
    chunks = {shape.num_tokens for shape in shapes if shape.prefill_product}
    assert {128, 256, 512, 1024} <= chunks
    assert all(time_s == pytest.approx(known_s(shape)) for shape, time_s in found)


def test_an_estimator_fitted_to_it_knows_the_target() -> None:
    estimator = StepTimeEstimator()
    estimator.fit(Bench().profile())
    shapes = [shape for shape, _ in steps(200, 5, most_seats=32)]
    assert all(estimator.predict_s(s) == pytest.approx(known_s(s), rel=0.15) for s in shapes)


@pytest.mark.parametrize("slower", [1.0, 100.0])
def test_it_keeps_to_its_budget(slower: float) -> None:
    bench = Bench(slower)
    found = bench.profile(budget_s=5.0)
    assert found
    assert (
        bench.clock.now < 5.0 + 4 * slower * 0.04
    )  # a step for each context may end behind its share


def test_little_time_is_not_spent_on_long_prompts() -> None:
    found = Bench(slower=10.0).profile(budget_s=3.0)  # a session of 1,880 tokens takes 1 s to fill
    decoding = [shape for shape, _ in found if not shape.prefill_product]
    assert len(decoding) > 10
    assert max(shape.num_context // shape.num_seats for shape in decoding) < 700


def test_progress_goes_from_nothing_to_all() -> None:
    bench = Bench()
    shares: list[float] = []
    counts: list[int] = []

    def progress(share: float, num_steps: int) -> None:
        shares.append(share)
        counts.append(num_steps)

    profile(
        bench.verifier,
        max_step_tokens=256,
        max_window=4,
        budget_s=2.0,
        clock=bench.clock,
        progress=progress,
    )
    assert shares == sorted(shares)
    assert shares[0] < 0.1
    assert shares[-1] == 1.0
    assert counts == sorted(counts)


def test_a_clock_that_stands_still_does_not_hold_it() -> None:
    verifier = ScriptedVerifier(max_sessions=8)
    found = profile(verifier, max_step_tokens=64, max_window=3, clock=VirtualClock())
    assert found
    assert verifier.num_open == 0


def test_a_target_too_short_gives_nothing() -> None:
    assert Bench(max_len=128).profile() == []


def test_a_step_that_fails_leaves_nothing_open() -> None:
    verifier = ScriptedVerifier()

    def fail(batch: Batch) -> None:
        raise RuntimeError("out of memory")

    verifier.on_step = fail
    with pytest.raises(RuntimeError, match="memory"):
        profile(verifier, max_step_tokens=256, max_window=4)
    assert verifier.num_open == 0
