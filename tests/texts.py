"""The text is the target's by every way: real processes with a pair that differs where it may.

The target has SentencePiece's kind of tokenizer and random weights, so that its texts are full of
single bytes. The drafter's directory has the same vocabulary, but another chat template, other
special tokens, and nothing at the beginning of a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import start_edge, start_server
from tests.models.sentencepiece import save_sentencepiece
from tests.models.tiny import save_random_model
from wisp.launch import Process
from wisp.models.tokenizer import Tokenizer

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HEAD_DIM = 32  # vLLM's least on a CPU


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "target"
    return save_sentencepiece(save_random_model(folder, "llama", head_dim=HEAD_DIM))


@pytest.fixture(scope="module")
def flags() -> list[str]:
    """Of the server: its engine."""
    return []


@pytest.fixture(scope="module")
def pair(target: Path, flags: list[str], logs: Path) -> Iterator[tuple[Process, Process]]:
    draft = save_random_model(target.with_name("draft"), "llama", head_dim=HEAD_DIM)
    template = "{{ bos_token }}{{ messages[0].content }}"
    save_sentencepiece(draft, template=template, bos="</s>", adds_bos=False)
    with (
        start_server(logs, f"--target={target}", *flags) as server,
        start_edge(server, logs, f"--draft={draft}") as edge,
    ):
        yield server, edge


def ask(process: Process, path: str, **fields: Any) -> Any:
    chat = {"messages": [{"role": "user", "content": "on"}]}
    prompt: dict[str, Any] = chat if path == CHAT else {"prompt": "the cat"}
    body = {"model": "target", "max_tokens": 24, **prompt, **fields}
    response = httpx.post(process.url + path, json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def text_of(answer: Any) -> str:
    (choice,) = answer["choices"]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_seed_has_one_text(pair: tuple[Process, Process], path: str) -> None:
    server, edge = pair
    logprobs: dict[str, Any] = {"logprobs": True if path == CHAT else 1}
    for seed in range(12):
        alone = ask(server, path, seed=seed)
        drafted = ask(edge, path, seed=seed)
        assert drafted["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]
        one_by_one = ask(edge, path, seed=seed, **logprobs)
        assert text_of(alone) == text_of(drafted) == text_of(one_by_one), seed


def test_the_text_is_one_decode_of_all_tokens(pair: tuple[Process, Process], target: Path) -> None:
    """Of a prompt and an answer without broken characters."""
    tokenizer = Tokenizer(target)
    ids = tokenizer.encode("the cat sat é")
    forced = {str(token): 100 for token in tokenizer.encode("mat")[1:]}
    for process in pair:
        text = text_of(ask(process, TEXT, prompt=ids, max_tokens=1, logit_bias=forced))
        assert text == " mat"


def test_an_id_of_the_targets_padding_does_no_harm(pair: tuple[Process, Process]) -> None:
    padding = {"logit_bias": {"500": 100}, "max_tokens": 4, "temperature": 0}
    assert [text_of(ask(process, TEXT, **padding)) for process in pair] == ["", ""]


@pytest.mark.parametrize("top_k", [2**31, 2**32, 2**64, 10**30])
def test_a_large_number_is_answered_and_holds_no_slot(
    pair: tuple[Process, Process], top_k: int
) -> None:
    for process in pair:
        off = ask(process, TEXT, seed=1, max_tokens=4)
        assert text_of(ask(process, TEXT, seed=1, max_tokens=4, top_k=top_k)) == text_of(off)


@pytest.mark.parametrize("name", ["min_tokens", "seed", "presence_penalty", "min_p", "top_p"])
def test_a_number_out_of_range_is_named(pair: tuple[Process, Process], name: str) -> None:
    for process in pair:
        body = {"model": "target", "prompt": "a", name: 2**70}
        response = httpx.post(process.url + TEXT, json=body, timeout=5)
        assert response.status_code == 400, response.text
        assert name in response.text


def test_variables_that_collide_are_refused(pair: tuple[Process, Process]) -> None:
    for process in pair:
        body = {
            "model": "target",
            "messages": [{"role": "user", "content": "a"}],
            "chat_template_kwargs": {"messages": 1},
        }
        response = httpx.post(process.url + CHAT, json=body, timeout=5)
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"] == "chat_template_kwargs"


def test_a_stop_string_across_the_border_of_min_tokens_counts(
    pair: tuple[Process, Process], target: Path
) -> None:
    """It begins before so many tokens, and ends behind them."""
    (token,) = Tokenizer(target).encode("the")[1:][-1:]
    forced = {"prompt": "a", "logit_bias": {str(token): 100}, "max_tokens": 12}
    for process in pair:
        whole = ask(process, TEXT, **forced)
        each = text_of(whole)[: len(text_of(whole)) // 12]
        assert each
        assert text_of(whole) == 12 * each
        for min_tokens, num_tokens in ((0, 3), (2, 3), (3, 4), (7, 8)):
            cut = ask(process, TEXT, **forced, stop=[3 * each], min_tokens=min_tokens)
            found = (text_of(cut), cut["usage"]["completion_tokens"])
            assert found == (each * (num_tokens - 3), num_tokens), min_tokens
            assert cut["choices"][0]["finish_reason"] == "stop"


def test_an_id_of_the_targets_padding_ends_nobody_elses_drafts(
    pair: tuple[Process, Process],
) -> None:
    """Streams with it and without, in the drafter's batches at once."""
    _, edge = pair
    padding: dict[str, Any] = {"logit_bias": {"500": 100}, "max_tokens": 200}
    with ThreadPoolExecutor(6) as pool:
        beside = [pool.submit(ask, edge, TEXT, **padding) for _ in range(3)]
        drafted = [pool.submit(ask, edge, TEXT, seed=seed, max_tokens=48) for seed in range(3)]
        assert [text_of(each.result()) for each in beside] == [""] * 3
        told = [each.result()["usage"]["wisp"]["edge_drafted_tokens"] for each in drafted]
    assert min(told) > 0
    after = ask(edge, TEXT, seed=9, max_tokens=48)
    assert after["usage"]["wisp"]["edge_drafted_tokens"] > 0


def test_a_refusal_is_the_same_through_an_edge(pair: tuple[Process, Process]) -> None:
    """The server's own, of a name that the edge cannot know: long, and with the field at fault."""
    told = []
    for process in pair:
        body = {"model": "target", "prompt": "a", "wisp": {"slo": 20_000 * "x"}}
        response = httpx.post(process.url + TEXT, json=body, timeout=5)
        error = response.json()["error"]
        told.append((response.status_code, error["param"], error["code"], error["message"][:60]))
    assert told[0] == told[1]
    assert told[0][:2] == (400, "slo")


def test_no_slot_is_left_behind(pair: tuple[Process, Process]) -> None:
    server, _ = pair
    assert httpx.get(f"{server.url}/v1/stats").json()["sessions"] == []
