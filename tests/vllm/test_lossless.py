"""Law 1 on vLLM: the target's own text, whatever the drafts and the batch."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vllm.driver import (
    Draft,
    Driver,
    drafter,
    expected,
    finish,
    learn,
    oracle,
    prompts,
    same,
    step,
)
from wisp.core.batch import Batch
from wisp.core.request import Sampling
from wisp.engine.step import InFlightStep

NUM_TOKENS = 40
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "nucleus": {"temperature": 0.8, "top_p": 0.95},
    "hot": {"temperature": 1.2},
    "top_k": {"temperature": 0.9, "top_k": 20, "min_p": 0.02},
    "penalties": {
        "temperature": 0.7,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.3,
        "repetition_penalty": 1.2,
    },
    "greedy_penalties": {"temperature": 0.0, "frequency_penalty": 0.8},
    "bias": {"temperature": 0.8, "logit_bias": {11: 3.0, 200: -100.0}},
    "stops": {"temperature": 0.0, "stop_token_ids": (2, 11, 13, 199), "min_tokens": 12},
}


@pytest.mark.parametrize("drafts", [False, True], ids=["plain", "drafts"])
@pytest.mark.parametrize("name", SAMPLINGS)
def test_text_is_the_torch_verifiers(verifier: Any, name: str, drafts: bool) -> None:
    pairs = [
        (prompt, Sampling(max_tokens=NUM_TOKENS, seed=n * 7919 + (1 << 63), **SAMPLINGS[name]))
        for n, prompt in enumerate(prompts()[:48])
    ]
    if not drafts:
        learn(pairs)
    drivers = [Driver(number, *pair) for number, pair in enumerate(pairs)]
    drafters = [drafter(number, *pair) for number, pair in enumerate(pairs)]
    finish(verifier, drivers, lambda s: drafters[s.id](s) if drafts else [])
    num_other = sum(not same(driver) for driver in drivers)
    print(f"{name}: {num_other} of {len(drivers)} texts differ by a float tie")
    assert num_other <= 1, "float ties are rarer than that"
    if drafts and name != "stops":  # those texts are short
        assert sum(d.num_accepted for d in drivers) > 300


def test_batch_and_restart_change_nothing(verifier: Any) -> None:
    sampling = Sampling(max_tokens=NUM_TOKENS, seed=5, temperature=1.0)
    prompt = prompts()[3]
    alone, among = Driver(0, prompt, sampling), Driver(1, prompt, sampling)
    finish(verifier, [alone])
    others = [Driver(2 + n, p, sampling) for n, p in enumerate(prompts()[:40])]
    finish(verifier, [*others, among])
    half = alone.text[: NUM_TOKENS // 2]
    resumed = Driver(100, prompt, sampling, committed=half)
    finish(verifier, [resumed])
    assert alone.text == among.text == resumed.text


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_logprobs_are_the_torch_verifiers(verifier: Any, temperature: float) -> None:
    sampling = Sampling(max_tokens=24, seed=1, temperature=temperature, num_logprobs=3)
    for prompt in prompts()[:4]:
        ours, theirs = Driver(0, prompt, sampling), Driver(1, prompt, sampling)
        plain = Driver(2, prompts()[9], Sampling(max_tokens=24, seed=1))  # asks for none
        finish(verifier, [plain, ours], only(0, drafter(0, prompt, sampling)))
        finish(oracle(), [theirs])
        assert ours.text == theirs.text
        assert len(ours.logprobs) == len(ours.text)
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-3)
        assert not plain.logprobs


def only(number: int, draft: Draft) -> Draft:
    return lambda session: draft(session) if session.id == number else []


def test_drafts_outside_the_vocabulary_are_not_taken(verifier: Any) -> None:
    sampling = Sampling(max_tokens=16, seed=1, temperature=0.0)
    prompt = prompts()[0]
    text = expected(prompt, sampling)
    driver = Driver(0, prompt, sampling)
    finish(verifier, [driver], lambda s: [*text[s.num_output :][:2], 1 << 20, -5])
    assert driver.text == text


def test_a_runner_that_is_told_at_once_writes_the_same(
    verifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As models with recurrent layers need it."""
    # The worker's own part is reached through vLLM's engine only.
    runner = verifier._core.model_executor.driver_worker.worker
    monkeypatch.setattr(runner.wisp_chooser, "tells_at_once", True)
    sampling = Sampling(max_tokens=24, seed=3, temperature=0.8)
    drivers = [Driver(n, prompt, sampling) for n, prompt in enumerate(prompts()[:8])]
    drafts = {d.session.id: drafter(d.session.id, d.prompt, sampling) for d in drivers}
    finish(verifier, drivers, lambda session: drafts[session.id](session))
    assert all(same(driver) for driver in drivers)


def test_drafts_behind_a_step_in_flight_go_along_where_their_row_is_moved(verifier: Any) -> None:
    """Who is not in the step leaves the batch, and the last request takes its place."""
    sampling = Sampling(max_tokens=20, seed=3, temperature=0.0)
    drivers = [Driver(n, prompt, sampling, overlaps=True) for n, prompt in enumerate(prompts()[:2])]
    for driver in drivers:
        verifier.open(driver.session)
    step(verifier, [(driver, driver.seat(100)) for driver in drivers])
    leaves, stays = drivers
    text = expected(stays.prompt, sampling)
    steps = []
    for seated, draft in ((drivers, text[1:3]), ([stays], text[4:8])):
        seats = [each.seat(100, draft if each is stays else ()) for each in seated]
        steps.append(InFlightStep(Batch(seats), None, 0.0, 0.0))
        steps[-1].launch(verifier)
    for each in steps:
        assert each.collect
        outcomes = each.collect()
        each.landed()
        stays.take(each.batch.seats[-1], outcomes[-1])
    assert stays.text == text[:9]
    for driver in (leaves, stays):
        verifier.close(driver.session)
