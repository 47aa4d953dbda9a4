"""What a drafter's slots compute, and that no KV block of theirs is lost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.vllm.conftest import BLOCK
from wisp.config import TINY
from wisp.core.extension import Extension, Fork, Ranking
from wisp.errors import InternalError
from wisp.models.draft_vocabulary import read_vocabulary
from wisp.verifier.vllm import load_drafter

IDS = range(2, 1000)
LONG = 100  # tokens: three full blocks, and some of a fourth


class Counted:
    """A model, and how many tokens it computed since this was asked last."""

    def __init__(self, model: Any, patch: pytest.MonkeyPatch) -> None:
        self.model = model
        self._num = 0
        stock = model.scheduler.schedule

        def schedule() -> Any:
            scheduled = stock()
            self._num += scheduled.total_num_scheduled_tokens
            return scheduled

        patch.setattr(model.scheduler, "schedule", schedule)

    def extend(self, *extensions: tuple[int, int, list[int]], **more: Any) -> Ranking:
        """`extensions`: slot, start and tokens, without noise."""
        plain = [Extension(*each, 0, 0.0) for each in extensions]
        found: Ranking = self.model.extend(more.get("ended", ()), more.get("forks", ()), plain)
        return found

    def num_computed(self) -> int:
        num, self._num = self._num, 0
        return num


@pytest.fixture(scope="module")
def loaded() -> Iterator[Any]:
    model = load_drafter(
        TINY / "draft",
        max_slots=6,
        max_model_len=512,
        memory_share=0.5,
        options={
            "enforce_eager": True,
            "block_size": BLOCK,
            "num_gpu_blocks_override": 60,
            "distributed_executor_backend": "mp",  # another engine may be in this process
        },
    )
    model.speak(read_vocabulary(TINY / "draft", model.num_logits))
    with pytest.MonkeyPatch.context() as patch:
        yield model
        # It would end the groups of the other engine.
        patch.setattr("vllm.v1.engine.core.cleanup_dist_env_and_memory", lambda: None)
        model.shutdown()


@pytest.fixture
def model(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    """All its blocks are free again after each test."""
    num_free = loaded.scheduler.num_free_blocks
    yield Counted(loaded, monkeypatch)
    for slot in range(6):
        loaded._drop(slot)  # as `extend` does with those that have ended
    assert loaded.scheduler.num_free_blocks == num_free
    assert not loaded.scheduler.requests


def text(seed: int, num: int = LONG) -> list[int]:
    return random.Random(seed).choices(IDS, k=num)


def same(one: Ranking, other: Ranking) -> bool:
    """By the chances of the likeliest: sums of another order may swap two that are equal."""
    return np.allclose(one.likelihoods, other.likelihoods, rtol=1e-3, atol=1e-6)


def test_texts_that_begin_alike_share_what_is_computed(model: Counted) -> None:
    shared = text(1)
    model.extend((0, 0, shared))
    assert model.num_computed() == LONG
    model.extend((1, 0, [*shared, 5, 6]), (2, 0, [*shared[:70], 7]))
    # What two full blocks, and three, do not hold.
    assert model.num_computed() == (LONG + 2 - 3 * BLOCK) + (71 - 2 * BLOCK)


def test_a_text_goes_back_by_position(model: Counted) -> None:
    model.extend((0, 0, text(2)))
    plain = [model.extend((0, LONG + n, [9])) for n in range(40)]
    model.num_computed()
    again = [model.extend((0, LONG + n, [9])) for n in range(40)]
    assert all(map(same, again, plain))
    assert model.num_computed() == 40
    model.extend((0, LONG + 10, [8, 7]))
    assert model.num_computed() == 2


def test_below_its_prompt_it_is_computed_from_a_full_block(model: Counted) -> None:
    model.extend((0, 0, text(3)))
    model.num_computed()
    model.extend((0, 70, [5]))
    assert model.num_computed() == 71 - 2 * BLOCK


def test_what_others_may_find_is_not_written_again(model: Counted) -> None:
    """However far a text goes back."""
    model.extend((0, 0, text(8, 40)))
    whole = model.extend((0, 40, text(9, 200)))
    model.num_computed()
    model.extend((0, 60, [5] * 50))
    assert model.num_computed() == 110 - BLOCK
    assert same(model.extend((1, 0, [*text(8, 40), *text(9, 200)])), whole)
    assert model.num_computed() < 240


def test_a_fork_computes_its_own_tokens_alone(model: Counted) -> None:
    """Whatever becomes of what it was forked from."""
    model.extend((0, 0, text(4)))
    for n in range(20):
        model.extend((0, LONG + n, [9]))
    model.num_computed()
    end = LONG + 15
    model.extend((0, end, [3]), (1, end, [4]), forks=[Fork(0, 1, end)])
    assert model.num_computed() == 2
    first = model.extend((0, end + 1, [5]), (1, end + 1, [5]))
    whole = [*text(4), *[9] * 15]
    again = model.extend((2, 0, [*whole, 3, 5]), (3, 0, [*whole, 4, 5]), ended=[0, 1])
    assert same(first, again)


def test_the_next_turn_finds_what_was_drafted(model: Counted) -> None:
    model.extend((0, 0, text(5, 64)))
    for n in range(40):
        model.extend((0, 64 + n, [9]))
    model.num_computed()
    model.extend((1, 0, [*text(5, 64), *[9] * 40, 3]), ended=[0])
    assert model.num_computed() == 105 - 3 * BLOCK


def test_a_slot_that_holds_less_is_an_error_and_the_others_go_on(model: Counted) -> None:
    before = model.extend((1, 0, text(7)), (0, 0, text(6)))
    with pytest.raises(InternalError, match="slot 2 holds 0 tokens, not 10"):
        model.extend((0, LONG, [5]), (2, 10, [5]))
    again = model.extend((1, LONG - 1, text(7)[-1:]), (0, 0, text(6)))
    assert same(again, before)
