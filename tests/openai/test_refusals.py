"""Every refusal: its status, and a body that says what is wrong and where."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from httpx import AsyncClient, Response
from openai import AsyncOpenAI

from tests.openai.refusals import CASES, CHAT, GOOD, TEXT
from wisp import errors
from wisp.openai.http_errors import TABLE, error_body
from wisp.testing.scripted_backend import Script, ScriptedBackend


def refused(response: Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert sorted(error) == ["code", "message", "param", "type"]
    assert error["message"]
    return error


async def test_wrong_fields_are_named(backend: ScriptedBackend, http: AsyncClient) -> None:
    for path, fields, param, code in CASES:
        error = refused(await http.post(path, json=GOOD[path] | fields), 400)
        assert error["type"] == "invalid_request_error", fields
        assert error["param"] == param, error
        assert error["code"] == (code or "invalid_value"), error
    assert backend.generations == []


async def test_a_prompt_without_room_is_too_long(http: AsyncClient) -> None:
    long: dict[str, Any] = {"model": "scripted", "prompt": [5] * 4096}
    for fields in (long, GOOD[TEXT] | {"max_tokens": 4096}, GOOD[TEXT] | {"prompt": "x" * 10**6}):
        error = refused(await http.post(TEXT, json=fields), 400)
        assert error["code"] == "context_length_exceeded"
        assert "4096" in error["message"]


async def test_another_model_is_not_found(http: AsyncClient, sdk: AsyncOpenAI) -> None:
    for path, good in GOOD.items():
        error = refused(await http.post(path, json=good | {"model": "gpt-5"}), 404)
        assert error["code"] == "model_not_found"
        assert "'scripted'" in error["message"]
    refused(await http.get("/v1/models/some/other"), 404)
    with pytest.raises(openai.NotFoundError):
        await sdk.models.retrieve("other")


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b'{"temperature": NaN}', b"\xff", b""])
async def test_malformed_json(http: AsyncClient, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    refused(await http.post(CHAT, content=body, headers=headers), 400)


async def test_wrong_type_path_method_and_size(http: AsyncClient) -> None:
    error = refused(
        await http.post(CHAT, content=b"{}", headers={"content-type": "text/plain"}), 415
    )
    assert error["code"] == "unsupported_media_type"
    assert "application/json" in error["message"]
    refused(await http.post(CHAT, content=b"{}"), 415)
    assert refused(await http.post("/v1/nothing", json={}), 404)["code"] == "unknown_url"
    response = await http.get(CHAT)
    assert refused(response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"
    big = b" " * (16 * 2**20 + 1)
    headers = {"content-type": "application/json; charset=utf-8"}
    refused(await http.post(CHAT, content=big, headers=headers), 413)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in TABLE if kind is not errors.WispError])
async def test_every_error_of_the_tree(
    backend: ScriptedBackend, http: AsyncClient, kind: type[errors.WispError], stream: bool
) -> None:
    for script in (Script(open_error=kind("It failed.")), Script(error=kind("It failed."))):
        backend.script = script
        response = await http.post(CHAT, json=GOOD[CHAT] | {"stream": stream})
        error = refused(response, TABLE[kind].status)
        assert (error["message"], error["type"]) == ("It failed.", TABLE[kind].type)
        assert error["code"] == TABLE[kind].code
        assert ("retry-after" in response.headers) == (response.status_code in (429, 503))
    assert [generation.num_closes for generation in backend.generations] == [1]


async def test_retry_after(backend: ScriptedBackend, http: AsyncClient) -> None:
    backend.script = Script(open_error=errors.Overloaded("Full.", retry_after_s=2.3))
    response = await http.post(CHAT, json=GOOD[CHAT])
    assert response.headers["retry-after"] == "3"
    assert response.headers["retry-after-ms"] == "2300"


async def test_no_model_yet(backend: ScriptedBackend, http: AsyncClient) -> None:
    backend.model_error = errors.Unavailable("The engine is loading.")
    refused(await http.post(CHAT, json=GOOD[CHAT]), 503)
    refused(await http.get("/v1/models"), 503)


async def test_an_unforeseen_fault_keeps_its_details_in_the_log(
    backend: ScriptedBackend, http: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(backend, "generate", fail)
    error = refused(await http.post(CHAT, json=GOOD[CHAT]), 500)
    assert "secret" not in error["message"]


def test_every_class_of_the_tree_is_in_the_table() -> None:
    tree = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert set(tree) == set(TABLE)
    assert error_body(errors.BadRequest("No.", "x"))["error"]["param"] == "x"


async def test_a_process_that_does_not_serve_is_alive_and_not_ready(
    http: AsyncClient, backend: ScriptedBackend
) -> None:
    backend.unhealthy = "no server in reach"
    assert (await http.get("/live")).status_code == 200
    assert "no server in reach" in refused(await http.get("/ready"), 503)["message"]


@pytest.mark.parametrize("name", ["é", "a\tb", "x" * 145])
async def test_a_name_of_a_conversation_that_grpc_could_not_carry(
    http: AsyncClient, name: str
) -> None:
    headers = {b"x-session-id": name.encode()}
    response = await http.post(TEXT, json=GOOD[TEXT], headers=headers)
    assert refused(response, 400)["param"] == "x-session-id"
