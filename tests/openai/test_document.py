"""The OpenAPI document, from which clients and tests are made."""

from __future__ import annotations

from typing import Any

from httpx import AsyncClient

from wisp import __version__
from wisp.openai.documented import ChatCompletion, TextCompletion
from wisp.testing.scripted_backend import ScriptedBackend


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
    fields = schemas["CompletionRequest"]["properties"]
    assert (fields["temperature"]["minimum"], fields["temperature"]["maximum"]) == (0, 2)
    assert fields["top_p"]["exclusiveMinimum"] == 0
    for name in ("temperature", "top_p", "min_p", "presence_penalty", "max_tokens", "top_k"):
        bounds = fields[name]
        taken = [bounds[key] for key in ("minimum", "maximum") if key in bounds]
        refused = [bounds[key] for key in ("exclusiveMinimum",) if key in bounds]
        refused += [bounds["minimum"] - 1] if "minimum" in bounds else []
        refused += [bounds["maximum"] + 1] if "maximum" in bounds else []
        assert taken
        whole = name in ("max_tokens", "top_k")  # the document writes 1.0, too
        for status, values in ((200, taken), (400, refused)):
            for value in values:
                number = int(value) if whole else value
                body = {"model": "scripted", "prompt": "cat", "max_tokens": 2, name: number}
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
