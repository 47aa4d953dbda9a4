"""What the chooser tells vLLM's model runner, against what vLLM's own code would."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.vllm.conftest import BLOCK
from tests.vllm.driver import Driver, prompts, step
from wisp.core.request import Sampling
from wisp.verifier.vllm.requests import known_tokens


def runner_of(verifier: Any) -> Any:
    # vLLM's own runner, in the process of the tests, is what is compared.
    return verifier._core.model_executor.driver_worker.worker.model_runner


@pytest.mark.parametrize(
    ("num_drafts", "num_tokens"),
    [([4, 4, 4], [5, 5, 5]), ([3, 0, 2, 0, 1], [4, 100, 3, 60, 2]), ([0, 7], [1, 8])],
)
def test_the_rows_of_the_logits_are_those_of_stock_code(
    verifier: Any, num_drafts: list[int], num_tokens: list[int]
) -> None:
    runner = runner_of(verifier)
    counts = np.array(num_drafts, np.int32)
    ends = np.cumsum(num_tokens, dtype=np.int32)
    ours = runner._calc_spec_decode_metadata(counts, ends)  # stock vLLM's method
    stock = type(runner)._calc_spec_decode_metadata(runner, counts, ends)  # stock vLLM's method
    assert ours.logits_indices.tolist() == stock.logits_indices.tolist()
    assert ours.num_draft_tokens == stock.num_draft_tokens
    assert ours.max_spec_len == stock.max_spec_len


def test_all_requests_are_told_at_once_what_was_chosen(verifier: Any) -> None:
    from wisp.verifier.vllm.sampler import Chooser

    batch = SimpleNamespace(
        req_id_to_index={"a": 2, "b": 0},
        token_ids_cpu=np.zeros((3, 12), np.int32),
        is_token_ids=np.zeros((3, 12), bool),
        num_tokens_no_spec=np.array([4, 0, 7], np.int32),
    )
    states = {name: SimpleNamespace(output_token_ids=[1]) for name in "abc"}
    chooser = Chooser.__new__(Chooser)
    # Only these two of its runner are looked at: no vLLM is needed for this.
    chooser._runner = SimpleNamespace(requests=states, input_batch=batch)
    chooser.append({"a": [5, 6, 7], "gone": [9], "b": [8], "c": [3, 4]})  # c is not in the batch
    assert [states[name].output_token_ids for name in "abc"] == [[1, 5, 6, 7], [1, 8], [1, 3, 4]]
    assert batch.token_ids_cpu[2].tolist() == [0] * 7 + [5, 6, 7, 0, 0]
    assert batch.token_ids_cpu[0].tolist() == [0] * 4 + [8] + [0] * 7
    assert (batch.is_token_ids == (batch.token_ids_cpu > 0)).all()
    assert batch.num_tokens_no_spec.tolist() == [5, 0, 10]
    chooser.append({"gone": [9]})
    assert batch.num_tokens_no_spec.tolist() == [5, 0, 10]


def test_a_block_is_named_when_the_next_one_is_needed(verifier: Any) -> None:
    """And in any case before it is freed: another session finds the text in the cache."""
    verifier.scheduler.reset_prefix_cache()
    prompt = [token for tokens in prompts()[70:80] for token in tokens][: BLOCK - 4]
    sampling = Sampling(max_tokens=2 * BLOCK + 8, seed=5, temperature=0.8)
    driver = Driver(0, prompt, sampling)
    verifier.open(driver.session)
    request_id = verifier.requests.names[0]
    named = verifier.scheduler._blocks.num_cached_block  # vLLM's own count of named blocks
    step(verifier, [(driver, driver.seat(256))])
    while not driver.done:
        step(verifier, [(driver, driver.seat(1))])
        behind = driver.session.num_computed // BLOCK - named.get(request_id, 0)
        assert behind in (0, 1)
        assert behind == 0 or driver.session.num_computed % BLOCK == 0
    verifier.close(driver.session)
    again = Driver(1, driver.session.tokens, sampling)
    verifier.open(again.session)
    step(verifier, [(again, again.seat(1))])
    assert again.session.num_computed >= (len(driver.session.tokens) - 1) // BLOCK * BLOCK
    verifier.close(again.session)


@pytest.mark.parametrize(
    ("draft", "known"), [([1, 2], [1, 2]), ([1, 9, 2], [1]), ([-1, 2], []), ([8], [8])]
)
def test_a_draft_ends_before_what_is_no_token(draft: list[int], known: list[int]) -> None:
    assert known_tokens(draft, 9) == known
