"""What a request asks for, in its body and in the header."""

from __future__ import annotations

from typing import Any

import pytest
from httpx import AsyncClient

from wisp.core.slo import Slo, SloChoice
from wisp.testing.scripted_backend import ScriptedBackend

URL = "/v1/completions"
GOOD: dict[str, Any] = {"model": "scripted", "prompt": "hi"}
NUMBERS = {"tokens_per_s": 20.0, "first_token_s": 0.5}
SLO = Slo(tokens_per_s=20.0, first_token_s=0.5)


async def ask(
    http: AsyncClient, header: str | None = None, slo: object = None
) -> tuple[int, dict[str, Any]]:
    headers = {} if header is None else {"x-wisp-slo": header}
    response = await http.post(URL, json=GOOD | {"wisp": {"slo": slo}}, headers=headers)
    return response.status_code, response.json()


@pytest.mark.parametrize(
    ("header", "in_body", "chosen"),
    [
        (None, None, None),
        ("", None, None),
        ("gold", None, "gold"),
        ("tokens_per_s=20, first_token_s=0.5", None, SLO),
        ("first_token_s = 0.5,tokens_per_s = 20", None, SLO),
        (None, "gold", "gold"),
        (None, NUMBERS, SLO),
        ("silver", "gold", "gold"),
        ("silver", NUMBERS, SLO),
    ],
)
async def test_header_and_body_choose(
    backend: ScriptedBackend,
    http: AsyncClient,
    header: str | None,
    in_body: object,
    chosen: SloChoice,
) -> None:
    status, answer = await ask(http, header, in_body)
    assert status == 200, answer
    assert backend.generations[-1].request.slo == chosen
    name = chosen.name if isinstance(chosen, Slo) else chosen or "default"
    assert answer["usage"]["wisp"]["slo_class"] == name


@pytest.mark.parametrize(
    "header",
    [
        "tokens_per_s=20",
        "tokens_per_s=20, first_token_s=0",
        "tokens_per_s=nan, first_token_s=1",
        "tokens_per_s=20, first_token_s=1, priority=9",
        "tokens_per_s=many, first_token_s=1",
        "tokens_per_s=1=2",
        "=",
    ],
)
async def test_a_wrong_header_is_named(
    backend: ScriptedBackend, http: AsyncClient, header: str
) -> None:
    status, answer = await ask(http, header)
    assert status == 400
    assert answer["error"]["param"] == "x-wisp-slo"
    assert "tokens_per_s=20, first_token_s=0.5" in answer["error"]["message"]
    assert backend.generations == []
