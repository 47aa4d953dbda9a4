"""Whole answers of both endpoints."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from httpx import AsyncClient
from msgspec import structs
from openai import AsyncOpenAI, NotFoundError
from openai.types.chat import ChatCompletionMessageParam

from wisp.core.slo import Slo
from wisp.testing.scripted_backend import Script, ScriptedBackend

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


async def test_chat(backend: ScriptedBackend, sdk: AsyncOpenAI) -> None:
    tokens = backend.tokenizer.encode("the cat sat on the mat")
    backend.script = Script(
        tokens=tokens, accepted=[2, 1], drafted=[4, 2], stats={"wasted_drafting_s": 0.5}
    )
    answer = await sdk.chat.completions.create(model="scripted", messages=HELLO, seed=-1)
    assert answer.object == "chat.completion"
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == "the cat sat on the mat"
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    request = backend.generations[0].request
    assert answer.usage.prompt_tokens == len(request.prompt)
    assert answer.usage.completion_tokens == len(tokens) + 1
    steps = 2 + len(tokens) + 1 - 5
    assert answer.usage.model_dump()["wisp"] == {
        "seed": 2**64 - 1,
        "steps": steps,
        "drafted_tokens": 6,
        "accepted_tokens": 3,
        "acceptance": 0.5,
        "rejections": 0,
        "covered_rejections": 0,
        "avoided_stalls": 0,
        "ngram_drafted_tokens": 0,
        "ngram_accepted_tokens": 0,
        "tokens_per_step": (len(tokens) + 1) / steps,
        "mean_step_s": 0.0,
        "interference": None,
        "slo_class": "default",
        "slo_met": True,
        "share_in_time": 1.0,
        "first_token_s": 0.0,
        "tokens_per_s": None,
        "wasted_drafting_s": 0.5,
    }
    assert backend.generations[0].num_closes == 1


async def test_a_prompt_that_takes_long_to_tokenize_holds_nobody_up(
    backend: ScriptedBackend, http: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, others_served = threading.Event(), threading.Event()

    def encode(text: str) -> list[int]:
        begun.set()
        assert others_served.wait(30), "nobody was served meanwhile"
        return [1]

    monkeypatch.setattr(backend.tokenizer, "encode", encode)
    body = {"model": "scripted", "prompt": "long"}
    asking = asyncio.create_task(http.post("/v1/completions", json=body))
    await asyncio.to_thread(begun.wait)
    assert (await http.get("/health")).status_code == 200
    others_served.set()
    assert (await asking).status_code == 200


async def test_an_adapter_is_a_model(backend: ScriptedBackend, sdk: AsyncOpenAI) -> None:
    backend.card = structs.replace(backend.card, adapters=("mine", "org/yours"))
    listed = [(m.id, m.model_dump()["parent"]) async for m in sdk.models.list()]
    assert listed == [("scripted", None), ("mine", "scripted"), ("org/yours", "scripted")]
    assert (await sdk.models.retrieve("org/yours")).id == "org/yours"
    for name in ("scripted", "org/yours"):
        answer = await sdk.completions.create(model=name, prompt="the cat")
        assert answer.model == backend.generations[-1].request.model == name
    with pytest.raises(NotFoundError, match="use 'scripted' or 'mine' or 'org/yours'"):
        await sdk.completions.create(model="theirs", prompt="the cat")


async def test_completion_of_text_and_of_token_ids(
    backend: ScriptedBackend, sdk: AsyncOpenAI
) -> None:
    backend.script = Script(tokens=backend.tokenizer.encode("sat on"))
    prompt = backend.tokenizer.encode("the cat")
    by_text = await sdk.completions.create(model="scripted", prompt="the cat", max_tokens=2)
    by_ids = await sdk.completions.create(model="scripted", prompt=prompt, max_tokens=2)
    assert by_text.object == "text_completion"
    assert by_text.choices[0].finish_reason == "length"
    assert by_text.choices[0].text == by_ids.choices[0].text
    assert [generation.request.prompt for generation in backend.generations] == [prompt, prompt]


async def test_every_sampling_field_reaches_the_backend(
    backend: ScriptedBackend, http: AsyncClient
) -> None:
    fields = {
        "model": "scripted",
        "messages": [
            {"role": "developer", "content": "be kind"},
            {"role": "user", "content": [{"type": "text", "text": t} for t in ("a", "b")]},
            {"role": "assistant", "content": "c", "refusal": None, "tool_calls": []},
            {"role": "user", "content": "d"},
        ],
        "max_completion_tokens": 9,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": -1,
        "min_p": 0.1,
        "presence_penalty": -1,
        "frequency_penalty": 1,
        "repetition_penalty": 1.1,
        "logit_bias": {"5": -100},
        "min_tokens": 2,
        "stop_token_ids": [7, 0],
        "seed": 2**64 - 1,
        "logprobs": True,
        "top_logprobs": 3,
        "chat_template_kwargs": {"mood": "calm"},
        "wisp": {"slo": {"tokens_per_s": 20, "first_token_s": 0.5}, "speculation": False},
        # harmless
        "n": 1,
        "user": "me",
        "store": True,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "response_format": {"type": "text"},
        "tools": None,
        "tool_choice": "none",
    }
    response = await http.post("/v1/chat/completions", json=fields)
    assert response.status_code == 200, response.text
    assert response.headers["x-wisp-seed"] == str(2**64 - 1)
    request = backend.generations[0].request
    text = "".join(backend.tokenizer.token_text(token) for token in request.prompt)
    assert text == (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n"
        "<|im_start|>assistant\nc<|im_end|>\n<|im_start|>user\nd<|im_end|>\n"
        "[calm]<|im_start|>assistant\n"
    )
    assert request.slo == Slo(tokens_per_s=20, first_token_s=0.5)
    assert not request.speculation
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.min_tokens, sampling.num_logprobs) == (9, 2, 3)
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (
        0,
        0.5,
        0,
        0.1,
    )
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-1, 1)
    assert sampling.repetition_penalty == 1.1
    assert sampling.logit_bias == {5: -100}
    assert sampling.stop_token_ids == (0, 7)


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("fields", "structure"),
    [
        ({"response_format": {"type": "json_object"}}, ("json", {"type": "object"})),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
                }
            },
            ("json", SCHEMA),
        ),
        ({"structured_outputs": {"json": SCHEMA}}, ("json", SCHEMA)),
        ({"structured_outputs": {"json_object": True}}, ("json", {"type": "object"})),
        ({"structured_outputs": {"choice": ["a", "b"]}}, ("choice", ["a", "b"])),
        ({"structured_outputs": {"regex": "[ab]+"}}, ("regex", "[ab]+")),
        ({"structured_outputs": {"grammar": "root ::= [ab]+"}}, ("grammar", "root ::= [ab]+")),
    ],
)
async def test_a_structure_reaches_the_backend(
    backend: ScriptedBackend, http: AsyncClient, fields: dict[str, Any], structure: tuple[str, Any]
) -> None:
    chat = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}
    response = await http.post("/v1/chat/completions", json=chat | fields)
    assert response.status_code == 200, response.text
    found = backend.generations[0].request.sampling.structure
    assert found is not None
    text = json.loads(found.text) if found.kind in ("json", "choice") else found.text
    assert (found.kind, text) == structure


async def test_defaults(backend: ScriptedBackend, http: AsyncClient) -> None:
    backend.script = Script(tokens=[5, 0, 6], stats={})
    fields = {"model": "scripted", "prompt": "the cat", "ignore_eos": True}
    response = await http.post("/v1/completions", json=fields)
    request = backend.generations[0].request
    seed = int(response.headers["x-wisp-seed"])
    assert 0 <= seed < 2**53
    assert request.sampling.seed == seed == response.json()["usage"]["wisp"]["seed"]
    assert request.sampling.max_tokens == backend.card.max_model_len - len(request.prompt)
    assert request.sampling.stop_token_ids == ()
    assert (request.slo, request.speculation) == (None, True)


async def test_a_stop_string_over_several_tokens_frees_the_session(
    backend: ScriptedBackend, sdk: AsyncOpenAI
) -> None:
    tokens = backend.tokenizer.encode("xyzw and on")
    backend.script = Script(tokens=tokens, hang_after=3)
    whole = await sdk.completions.create(model="scripted", prompt="a", stop=["yz"])
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("x", "stop")
    stream = await sdk.completions.create(model="scripted", prompt="a", stop="yz", stream=True)
    choices = [chunk.choices[0] async for chunk in stream]
    assert "".join(choice.text for choice in choices) == "x"
    assert choices[-1].finish_reason == "stop"
    assert [generation.num_closes for generation in backend.generations] == [1, 1]


async def test_a_character_split_over_tokens_arrives_whole(
    backend: ScriptedBackend, sdk: AsyncOpenAI
) -> None:
    text = "naïve 😀 日本語"
    backend.script = Script(tokens=backend.tokenizer.encode(text), accepted=[1, 0, 2])
    stream = await sdk.chat.completions.create(model="scripted", messages=HELLO, stream=True)
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


async def test_chat_logprobs(backend: ScriptedBackend, sdk: AsyncOpenAI) -> None:
    tokens = backend.tokenizer.encode("the é")
    backend.script = Script(tokens=tokens, accepted=[1])
    answer = await sdk.chat.completions.create(
        model="scripted", messages=HELLO, logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    data = b"".join(bytes(entry.bytes or []) for entry in logprobs.content)
    assert data.decode() == "the é"  # the end token is not among them
    assert [entry.logprob for entry in logprobs.content] == [-token / 1000 for token in tokens]
    assert [len(entry.top_logprobs) for entry in logprobs.content] == [2] * len(tokens)
    assert logprobs.content[-1].token == "bytes:\\xa9"


async def test_completion_logprobs_stream_as_they_come_whole(
    backend: ScriptedBackend, sdk: AsyncOpenAI
) -> None:
    tokens = backend.tokenizer.encode("the cat é!")
    backend.script = Script(tokens=tokens, accepted=[1, 2])
    whole = await sdk.completions.create(model="scripted", prompt="a", logprobs=1)
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.text_offset is not None
    for name, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert name.startswith("bytes:") or "the cat é!".startswith(name, offset)
    stream = await sdk.completions.create(model="scripted", prompt="a", logprobs=1, stream=True)
    parts = [chunk.choices[0].logprobs async for chunk in stream]
    for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        joined = [item for part in parts if part is not None for item in getattr(part, field)]
        assert joined == getattr(logprobs, field)
    assert len(logprobs.tokens) == len(tokens)


async def test_models_and_health(
    backend: ScriptedBackend, sdk: AsyncOpenAI, http: AsyncClient
) -> None:
    assert [model.id async for model in sdk.models.list()] == ["scripted"]
    assert (await sdk.models.retrieve("scripted")).owned_by == "wisp"
    assert (await http.get("/health")).json() == {"status": "ok"}
    backend.unhealthy = "The engine is still loading: try again soon."
    response = await http.get("/health")
    assert response.status_code == 503
    assert response.json()["error"]["message"] == backend.unhealthy
