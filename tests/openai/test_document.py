"""The OpenAPI document, from which clients and tests are made."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from httpx import AsyncClient
from pydantic import BaseModel, ValidationError

from tests.openai.refusals import CASES as REFUSED
from tests.openai.refusals import CHAT, TEXT, TOOL
from tests.openai.refusals import GOOD as BODIES
from tests.openai.tools import with_tools
from wisp import __version__
from wisp.openai.documented import ChatCompletion, TextCompletion
from wisp.openai.routes import REQUESTS
from wisp.testing.scripted_backend import ScriptedBackend

USER = {"role": "user", "content": "hi"}
CALLED: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "refusal": None,
    "annotations": [],
    "tool_calls": [{"id": "x", "type": "function", "function": {"name": "f", "arguments": "5"}}],
}
RESULT = {"role": "tool", "tool_call_id": "x", "content": "sunny"}
SHAPE = {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}
EVERYWHERE: list[dict[str, Any]] = [
    {},
    {"n": 16.0, "best_of": 16.0, "seed": 7.0, "max_tokens": 4.0, "min_tokens": 0.0, "top_k": -1.0},
    {"temperature": None, "n": None, "stop": None, "whatever": None},
    {"stop": "a"},
    {"stop": ["a", "b"]},
    {"seed": 2**64 - 1},
    {"seed": -(2**63)},
    {"logit_bias": {"5": -100}, "stop_token_ids": [1.0, 2]},
    {"user": "me", "metadata": {"a": 1}, "store": True, "priority": 0.0, "functions": []},
    {"stream": True, "stream_options": {"include_usage": True}},
    {"stream_options": {"include_usage": False}},
    {"response_format": SHAPE},
    {"response_format": {"type": "text"}, "structured_outputs": {"regex": "a"}},
    {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": None}},
    {"wisp": {"slo": "interactive"}},
    {"wisp": {"slo": {"tokens_per_s": 5, "first_token_s": 1}, "speculation": False}},
]
TAKEN: list[tuple[str, dict[str, Any]]] = [
    *[(path, body | more) for path, body in BODIES.items() for more in EVERYWHERE],
    *[
        (TEXT, {"model": "scripted", "prompt": prompt})
        for prompt in ("", "a", [1, 2.0], ["a", "b"], [[1], [2.0]], ["a", [1]])
    ],
    (TEXT, {"model": "scripted", "prompt": "a", "echo": True, "max_tokens": 0, "logprobs": 0}),
    (CHAT, {"model": "scripted", "messages": [USER, CALLED, RESULT], "tools": [TOOL]}),
    (CHAT, {"model": "scripted", "messages": [{"role": "assistant"}]}),
    (CHAT, {"model": "scripted", "messages": [{"role": "user", "content": []}]}),
    (
        CHAT,
        {
            "model": "scripted",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a", "more": 1}]}],
        },
    ),
    (CHAT, {"model": "scripted", "messages": [USER], "logprobs": True, "top_logprobs": 3.0}),
    (CHAT, {"model": "scripted", "messages": [USER], "top_logprobs": 0}),
    (CHAT, {"model": "scripted", "messages": [USER], "tools": [TOOL], "tool_choice": "required"}),
    (CHAT, {"model": "scripted", "messages": [USER], "tools": [], "tool_choice": "auto"}),
    ("/v1/responses", {"model": "scripted", "input": "a", "store": False, "top_p": 1}),
    (
        "/v1/responses",
        {
            "model": "scripted",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                {"type": "function_call", "call_id": "x", "name": "f", "arguments": "no JSON"},
                {"type": "function_call_output", "call_id": "x", "output": "sunny"},
            ],
            "include": ["message.output_text.logprobs"],
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}},
        },
    ),
    ("/tokenize", {"prompt": "a", "add_special_tokens": True, "return_token_strs": True}),
    ("/tokenize", {"messages": [USER], "add_special_tokens": False}),
    ("/detokenize", {"tokens": [1, 2.0]}),
]
WRONG: list[tuple[str, dict[str, Any]]] = [
    *[(path, BODIES[path] | fields) for path, fields, _, _ in REFUSED],
    ("/v1/responses", {"model": "scripted", "input": []}),
    ("/v1/responses", {"model": "scripted", "input": [{"type": "reasoning"}]}),
    ("/v1/responses", {"model": "scripted", "input": [{"type": "function_call", "name": "f"}]}),
    ("/v1/responses", {"model": "scripted", "input": "a", "store": True}),
    ("/v1/responses", {"model": "scripted", "input": "a", "text": {"format": {"schema": {}}}}),
    ("/v1/responses", {"model": "scripted", "input": "a", "tool_choice": "required"}),
    ("/tokenize", {}),
    ("/tokenize", {"prompt": "a", "messages": [USER]}),
    ("/tokenize", {"messages": [USER], "add_special_tokens": True}),
    ("/detokenize", {"tokens": ["a"]}),
]
MODELS: dict[str, type[BaseModel]] = dict(
    zip((CHAT, TEXT, "/v1/responses", "/tokenize", "/detokenize"), REQUESTS, strict=True)
)


@pytest.fixture
async def document(http: AsyncClient) -> Any:
    return (await http.get("/openapi.json")).json()


def told_of(document: Any, path: str) -> jsonschema.Draft202012Validator:
    content = document["paths"][path]["post"]["requestBody"]["content"]
    (schema,) = [kind["schema"] for kind in content.values()]
    return jsonschema.Draft202012Validator({**schema, "components": document["components"]})


def refuses(path: str, body: dict[str, Any]) -> bool:
    try:
        MODELS[path].model_validate(body)
    except ValidationError:
        return True
    return False


async def test_what_is_taken_keeps_to_the_document(
    backend: ScriptedBackend, http: AsyncClient
) -> None:
    backend.tokenizer = with_tools(backend.tokenizer)
    document = (await http.get("/openapi.json")).json()
    for path, body in TAKEN:
        MODELS[path].model_validate(body)
        told_of(document, path).validate(body)


async def test_the_document_tells_what_is_refused(document: Any) -> None:
    """But for what only the model can know, and what JSON Schema cannot say."""
    found = [(path, body) for path, body in WRONG if refuses(path, body)]
    assert len(found) > 80
    untold = [body for path, body in found if told_of(document, path).is_valid(body)]
    assert not untold, untold


async def test_the_document_tells_what_the_model_knows(
    document: Any, backend: ScriptedBackend, http: AsyncClient
) -> None:
    asked = {"messages": [USER], "tools": [TOOL]}
    assert not told_of(document, "/tokenize").is_valid(asked)
    assert (await http.post("/tokenize", json=asked)).status_code == 400
    reserved = {"messages": [USER], "chat_template_kwargs": {"messages": 1}}
    assert not told_of(document, "/tokenize").is_valid(reserved)
    assert (await http.post("/tokenize", json=reserved)).status_code == 400
    backend.tokenizer = with_tools(backend.tokenizer)
    document = (await http.get("/openapi.json")).json()
    told_of(document, "/tokenize").validate(asked)
    assert (await http.post("/tokenize", json=asked)).status_code == 200


async def test_bounds_are_exact(document: Any) -> None:
    """As floats they would be others: the largest seed has 64 bits."""
    text = json.dumps(document["components"]["schemas"]["ChatRequest"]["properties"]["seed"])
    assert str(2**64 - 1) in text
    ids = document["components"]["schemas"]["DetokenizeRequest"]["properties"]["tokens"]["items"]
    assert ids["minimum"] == 0
    assert ids["maximum"] > 256


async def test_the_document_has_every_route_and_the_fields_of_requests(http: AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert document["info"] == {"title": "WISP", "version": __version__}
    assert {path: set(operations) for path, operations in document["paths"].items()} == {
        "/v1/chat/completions": {"post"},
        "/v1/completions": {"post"},
        "/v1/responses": {"post"},
        "/tokenize": {"post"},
        "/detokenize": {"post"},
        "/version": {"get"},
        "/v1/models": {"get"},
        "/v1/models/{name}": {"get"},
        "/live": {"get"},
        "/ready": {"get"},
        "/health": {"get"},
    }
    post = document["paths"]["/v1/chat/completions"]["post"]
    assert set(post["responses"]) == {"200", "4XX", "5XX"}
    chat = document["components"]["schemas"]["ChatRequest"]
    assert {"model", "messages"} == set(chat["required"])
    assert {"temperature", "stream", "wisp"} <= set(chat["properties"])


async def test_the_document_tells_the_bounds_of_numbers(http: AsyncClient) -> None:
    """Each bound that it tells is taken, and what lies beyond is refused."""
    schemas = (await http.get("/openapi.json")).json()["components"]["schemas"]
    properties = schemas["CompletionRequest"]["properties"]
    fields = {name: field["anyOf"][0] for name, field in properties.items() if "anyOf" in field}
    assert (fields["temperature"]["minimum"], fields["temperature"]["maximum"]) == (0, 2)
    assert fields["top_p"]["exclusiveMinimum"] == 0
    for name in ("temperature", "top_p", "min_p", "presence_penalty", "min_tokens", "top_k"):
        bounds = fields[name]
        taken = [bounds[key] for key in ("minimum", "maximum") if key in bounds]
        refused = [bounds[key] for key in ("exclusiveMinimum",) if key in bounds]
        refused += [bounds["minimum"] - 1] if "minimum" in bounds else []
        refused += [bounds["maximum"] + 1] if "maximum" in bounds else []
        assert taken
        for status, values in ((200, taken), (400, refused)):
            for value in values:
                body = {"model": "scripted", "prompt": "cat", "max_tokens": 2, name: value}
                answer = await http.post("/v1/completions", json=body)
                assert answer.status_code == status, (name, value, answer.text)


async def test_answers_are_as_the_document_says(http: AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    asked: dict[str, Any] = {"model": "scripted", "max_tokens": 4}
    chat = asked | {"messages": [{"role": "user", "content": "hi"}], "logprobs": True}
    plain = asked | {"prompt": "cat", "logprobs": 1, "n": 2}
    for path, body, model in (
        ("/v1/chat/completions", chat, ChatCompletion),
        ("/v1/completions", plain, TextCompletion),
    ):
        content = document["paths"][path]["post"]["responses"]["200"]["content"]
        assert content["application/json"]["schema"]["$ref"].endswith(f"/{model.__name__}")
        assert "text/event-stream" in content
        answer = await http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        told = model.model_validate_json(answer.content, strict=True)
        assert told.usage.completion_tokens > 0


async def test_the_page_of_the_document(http: AsyncClient) -> None:
    assert "/openapi.json" in (await http.get("/docs")).text


async def test_tokens_and_back(backend: ScriptedBackend, http: AsyncClient) -> None:
    text = (await http.post("/tokenize", json={"prompt": "the cat"})).json()
    assert text["tokens"] == backend.tokenizer.encode("the cat")
    assert (text["count"], text["max_model_len"]) == (len(text["tokens"]), 4096)
    chat = [{"role": "user", "content": "hi"}]
    told = (await http.post("/tokenize", json={"messages": chat})).json()
    assert told["tokens"] == backend.tokenizer.encode_chat(chat)
    back = await http.post("/detokenize", json={"tokens": text["tokens"]})
    assert back.json() == {"prompt": "the cat"}
    assert (await http.post("/detokenize", json={"tokens": [99999]})).status_code == 400
    assert (await http.post("/tokenize", json={})).status_code == 400
    assert (await http.get("/version")).json() == {"version": __version__}


async def test_head_of_health_for_balancers(http: AsyncClient) -> None:
    assert (await http.head("/health")).status_code == 200
    assert (await http.head("/ready")).status_code == 200
