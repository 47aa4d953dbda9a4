"""Several answers to a request: to one prompt, and to several prompts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient
from openai import AsyncOpenAI

from wisp.errors import Overloaded, Unavailable
from wisp.models.tokenizer import Tokenizer
from wisp.openai.routes import create_app
from wisp.testing.scripted_backend import Script, ScriptedBackend

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
BODIES: dict[str, dict[str, Any]] = {
    TEXT: {"model": "scripted", "prompt": "the cat"},
    CHAT: {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]},
}


@pytest.mark.parametrize("path", [TEXT, CHAT])
async def test_each_answer_has_a_seed_of_its_own(
    backend: ScriptedBackend, http: AsyncClient, path: str
) -> None:
    backend.script = Script(tokens=backend.tokenizer.encode("sat on"))
    response = await http.post(path, json=BODIES[path] | {"n": 3, "seed": 2**64 - 1})
    choices = response.json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    requests = [generation.request for generation in backend.generations]
    assert [request.sampling.seed for request in requests] == [2**64 - 1, 0, 1]
    usage = response.json()["usage"]
    assert usage["prompt_tokens"] == len(requests[0].prompt)
    assert usage["completion_tokens"] == 3 * (len(backend.script.tokens) + 1)
    assert [told["seed"] for told in usage["wisp"]["answers"]] == [2**64 - 1, 0, 1]


async def test_prompts_of_any_kind_in_one_request(
    backend: ScriptedBackend, sdk: AsyncOpenAI
) -> None:
    ids = backend.tokenizer.encode("the dog")
    backend.script = Script(tokens=backend.tokenizer.encode("sat"))
    answer = await sdk.completions.create(model="scripted", prompt=["the cat", "the dog"], n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    cat = backend.tokenizer.encode("the cat")
    assert [g.request.prompt for g in backend.generations] == [cat, cat, ids, ids]
    backend.generations.clear()
    await sdk.completions.create(model="scripted", prompt=[ids, cat])
    assert [g.request.prompt for g in backend.generations] == [ids, cat]


async def test_a_stream_tells_the_answers_apart(backend: ScriptedBackend, sdk: AsyncOpenAI) -> None:
    backend.script = Script(tokens=backend.tokenizer.encode("sat on the mat"))
    stream = await sdk.chat.completions.create(
        n=2, stream=True, stream_options={"include_usage": True}, **BODIES[CHAT]
    )
    texts, reasons = {0: "", 1: ""}, {}
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert texts == {0: "sat on the mat", 1: "sat on the mat"}
    assert reasons == {0: "stop", 1: "stop"}


async def test_the_best_are_those_with_the_likeliest_tokens(
    backend: ScriptedBackend, sdk: AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {5: "sat", 6: "on", 7: "mat"}  # the double's logprob of a token is -id / 1000
    tokens = {seed: backend.tokenizer.encode(text) for seed, text in texts.items()}
    generate, one_by_one = backend.generate, asyncio.Lock()

    async def by_seed(request: Any) -> Any:
        async with one_by_one:
            backend.script = Script(tokens=tokens[request.sampling.seed])
            return await generate(request)

    monkeypatch.setattr(backend, "generate", by_seed)
    answer = await sdk.completions.create(model="scripted", prompt="the", best_of=3, n=2, seed=5)

    def mean(seed: int) -> float:
        return sum(tokens[seed]) / len(tokens[seed])

    best = [texts[seed] for seed in sorted(texts, key=mean)]
    assert [choice.text for choice in answer.choices] == best[:2]
    assert answer.choices[0].logprobs is None
    assert answer.usage
    assert answer.usage.completion_tokens == sum(len(t) + 1 for t in tokens.values())


@pytest.mark.parametrize("stream", [False, True])
async def test_one_refusal_is_the_answer_and_frees_the_others(
    backend: ScriptedBackend, http: AsyncClient, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    backend.script = Script(hang_after=0)
    generate = backend.generate

    async def all_but_the_third(request: Any) -> Any:
        if request.sampling.seed == 3:
            raise Unavailable("It drains.")
        return await generate(request)

    monkeypatch.setattr(backend, "generate", all_but_the_third)
    response = await http.post(TEXT, json=BODIES[TEXT] | {"n": 3, "seed": 1, "stream": stream})
    assert response.status_code == 503
    assert [generation.num_closes for generation in backend.generations] == [1, 1]


class NarrowBackend(ScriptedBackend):
    """Has room for two; as at an edge, a refusal comes with the first verdict."""

    room = 2

    async def generate(self, request: Any) -> Any:
        num_open = sum(not generation.num_closes for generation in self.generations)
        full = Overloaded("Full.") if num_open >= self.room else None
        self.script = replace(self.script, error=full)
        return await super().generate(request)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_finds_no_room_waits_for_another(
    tokenizer: Tokenizer, stream: bool
) -> None:
    """Three of them were refused together, although two would have made room."""
    backend = NarrowBackend(tokenizer, Script(tokens=tokenizer.encode("sat on the mat")))
    transport = ASGITransport(create_app(backend))
    body = BODIES[TEXT] | {"n": 6, "stream": stream}
    async with AsyncClient(transport=transport, base_url="http://test") as http:
        async with asyncio.timeout(30):
            answer = await http.post(TEXT, json=body)
        assert answer.status_code == 200
        assert answer.text.count('"finish_reason":"stop"') == 6
        assert all(generation.num_closes for generation in backend.generations)
        backend.room = 0
        async with asyncio.timeout(30):
            refused = await http.post(TEXT, json=body)
        assert refused.status_code == 429


async def test_many_prompts_take_turns(backend: ScriptedBackend, http: AsyncClient) -> None:
    prompts = [[5, index] for index in range(40)]
    response = await http.post(TEXT, json={"model": "scripted", "prompt": prompts})
    assert [choice["index"] for choice in response.json()["choices"]] == list(range(40))
    assert all(generation.num_closes == 1 for generation in backend.generations)


async def test_echo(backend: ScriptedBackend, http: AsyncClient) -> None:
    backend.script = Script(tokens=backend.tokenizer.encode(" sat"))
    whole = await http.post(TEXT, json=BODIES[TEXT] | {"echo": True})
    assert whole.json()["choices"][0]["text"] == "the cat sat"
    nothing = await http.post(TEXT, json=BODIES[TEXT] | {"echo": True, "max_tokens": 0})
    (choice,) = nothing.json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("the cat", "length")
    assert nothing.json()["usage"]["completion_tokens"] == 0


async def test_echo_with_logprobs_scores_the_prompt(
    backend: ScriptedBackend, http: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = backend.tokenizer.encode("the cat")
    rest = backend.tokenizer.encode(" sat")
    generate, one_by_one = backend.generate, asyncio.Lock()

    async def forced(request: Any) -> Any:
        async with one_by_one:
            backend.script = Script(tokens=list(request.sampling.logit_bias) or rest)
            return await generate(request)

    monkeypatch.setattr(backend, "generate", forced)
    body = BODIES[TEXT] | {"echo": True, "logprobs": 1, "max_tokens": len(rest)}
    (choice,) = (await http.post(TEXT, json=body)).json()["choices"]
    logprobs = choice["logprobs"]
    tokens = [*prompt, *rest]
    assert logprobs["token_logprobs"] == [None, *(-token / 1000 for token in tokens[1:])]
    assert logprobs["top_logprobs"][0] is None
    for name, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert choice["text"].startswith(name, offset)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [5] * 300, "echo": True, "logprobs": 0, "max_tokens": 0},
        {"prompt": [[5, 6]] * 300, "max_tokens": 1},
    ],
)
async def test_one_request_begins_no_more_than_it_can_go_on_with(
    backend: ScriptedBackend,
    http: AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
) -> None:
    """Each token of an echoed prompt had a task with all before it: gigabytes for 32,768."""
    generate, most = backend.generate, 0

    async def counted(request: Any) -> Any:
        nonlocal most
        most = max(most, len(asyncio.all_tasks()))
        backend.script = Script(tokens=[*request.sampling.logit_bias, 1, 1])
        return await generate(request)

    monkeypatch.setattr(backend, "generate", counted)
    answer = await http.post(TEXT, json={"model": "scripted"} | fields)
    assert answer.status_code == 200
    assert len(backend.generations) >= 299
    assert most < 50


async def test_answers_have_a_bound(http: AsyncClient) -> None:
    many = {"model": "scripted", "prompt": [[5]] * 1000, "n": 16}
    answer = await http.post(TEXT, json=many)
    assert answer.status_code == 400
    assert "16000 answers" in answer.json()["error"]["message"]


async def test_logprobs_always_hold_the_chosen_token(
    backend: ScriptedBackend, http: AsyncClient
) -> None:
    backend.script = Script(tokens=backend.tokenizer.encode("sat on"))
    for num in (0, 1, 3):
        answer = (await http.post(TEXT, json=BODIES[TEXT] | {"logprobs": num})).json()
        logprobs = answer["choices"][0]["logprobs"]
        for name, top in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True):
            assert name in top
            assert len(top) <= num + 1


NOTHING: dict[str, Any] = {
    "skip_special_tokens": True,
    "add_generation_prompt": True,
    "priority": 0,
    "use_beam_search": False,
    "length_penalty": 1.0,
    "request_id": "mine",
    "stream_options": {},
    "tool_choice": None,
}


@pytest.mark.parametrize("name", NOTHING)
async def test_what_asks_for_nothing_is_taken(
    backend: ScriptedBackend, http: AsyncClient, name: str
) -> None:
    for path, body in BODIES.items():
        response = await http.post(path, json=body | {name: NOTHING[name]})
        assert response.status_code == 200, response.text


async def test_usage_in_every_chunk(backend: ScriptedBackend, sdk: AsyncOpenAI) -> None:
    backend.script = Script(tokens=backend.tokenizer.encode("sat on"))
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    stream = await sdk.completions.create(stream=True, stream_options=options, **BODIES[TEXT])
    usages = [chunk.usage async for chunk in stream]
    counts = [usage.completion_tokens for usage in usages if usage]
    assert len(counts) == len(usages)
    assert counts == sorted(counts)
    assert counts[-1] == len(backend.script.tokens) + 1


async def test_an_assistants_turn_may_be_without_text(
    backend: ScriptedBackend, http: AsyncClient
) -> None:
    turns: list[dict[str, Any]] = [
        {"content": None},
        {"content": []},
        {},
        {"content": "", "reasoning": "so"},
    ]
    for turn in turns:
        messages = [{"role": "user", "content": "hi"}, {"role": "assistant", **turn}]
        body = {"model": "scripted", "messages": [*messages, {"role": "user", "content": "go"}]}
        response = await http.post(CHAT, json=body)
        assert response.status_code == 200, response.text
    prompts = {tuple(generation.request.prompt) for generation in backend.generations}
    assert len(prompts) == 1
