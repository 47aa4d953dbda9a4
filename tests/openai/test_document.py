"""The OpenAPI document, from which clients and tests are made."""

from __future__ import annotations

from httpx import AsyncClient

from wisp import __version__
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
