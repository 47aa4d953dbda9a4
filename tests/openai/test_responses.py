"""The Responses API, as OpenAI's SDK speaks it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from httpx import AsyncClient
from openai import AsyncOpenAI

from tests.openai.tools import CALL, WEATHER_FLAT, with_tools
from wisp.models.tokenizer import Tokenizer
from wisp.testing.scripted_backend import Script, ScriptedBackend


@pytest.fixture
def backend(tokenizer: Tokenizer) -> ScriptedBackend:
    return ScriptedBackend(with_tools(tokenizer))


async def test_text_in_and_out(backend: ScriptedBackend, sdk: AsyncOpenAI) -> None:
    tokens = backend.tokenizer.encode("the cat sat")
    backend.script = Script(tokens=tokens)
    answer = await sdk.responses.create(
        model="scripted", input="go", instructions="be kind", store=False, max_output_tokens=50
    )
    assert answer.output_text == "the cat sat"
    assert answer.status == "completed"
    assert answer.usage
    assert answer.usage.output_tokens == len(tokens) + 1
    prompt = backend.tokenizer.decode(backend.generations[0].request.prompt)
    assert prompt == "[system]be kind[user]go"
    cut = await sdk.responses.create(model="scripted", input="go", max_output_tokens=2)
    assert cut.status == "incomplete"
    assert cut.incomplete_details
    assert cut.incomplete_details.reason == "max_output_tokens"


async def test_a_stream_of_events(backend: ScriptedBackend, sdk: AsyncOpenAI) -> None:
    backend.script = Script(tokens=backend.tokenizer.encode("the cat sat"))
    kinds, numbers = [], []
    async with sdk.responses.stream(model="scripted", input="go") as stream:
        async for event in stream:
            kinds.append(event.type)
            numbers.append(event.sequence_number)
        final = await stream.get_final_response()
    assert final.output_text == "the cat sat"
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-1] == "response.completed"
    assert numbers == list(range(len(numbers)))


async def test_a_call_and_the_answer_to_its_result(
    backend: ScriptedBackend, sdk: AsyncOpenAI
) -> None:
    backend.script = Script(tokens=backend.tokenizer.encode(CALL))
    answer = await sdk.responses.create(model="scripted", input="how?", tools=[WEATHER_FLAT])
    (call,) = answer.output
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"city": "Rome"}
    history: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": "how?"}]},
        call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
    ]
    asked: Any = {"model": "scripted", "input": history, "tools": [WEATHER_FLAT]}
    async with sdk.responses.stream(**asked) as stream:
        final = await stream.get_final_response()
    assert [item.type for item in final.output] == ["function_call"]
    prompt = backend.tokenizer.decode(backend.generations[-1].request.prompt)
    assert prompt.endswith("[assistant]<tool_call>weather Rome</tool_call>[tool]sunny")


async def test_a_format_reaches_the_backend(backend: ScriptedBackend, sdk: AsyncOpenAI) -> None:
    schema = {"type": "object"}
    text: Any = {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}}
    await sdk.responses.create(model="scripted", input="go", text=text)
    structure = backend.generations[0].request.sampling.structure
    assert structure
    assert json.loads(structure.text) == schema


async def test_logprobs_come_with_the_text(backend: ScriptedBackend, sdk: AsyncOpenAI) -> None:
    """They were asked for, and silently left out."""
    backend.script = Script(tokens=backend.tokenizer.encode("the cat sat"))
    asked: Any = {"model": "scripted", "input": "go", "top_logprobs": 2}
    asked["include"] = ["message.output_text.logprobs"]
    whole = await sdk.responses.create(**asked)
    async with sdk.responses.stream(**asked) as stream:
        deltas = [e.logprobs async for e in stream if e.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    told = []
    for answer in (whole, final):
        entries = answer.model_dump()["output"][0]["content"][0]["logprobs"]
        told.append([entry["token"] for entry in entries])
        assert all(len(entry["top_logprobs"]) == 2 for entry in entries)
    assert "".join(told[0]) == "the cat sat"
    assert told[1] == told[0] == [entry.token for part in deltas for entry in part]
    plain = await sdk.responses.create(model="scripted", input="go")
    assert plain.model_dump()["output"][0]["content"][0]["logprobs"] == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"colour": 1}, "colour"),
        ({"input": None}, "input"),
        ({"temperature": 3.0}, "temperature"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0]"),
    ],
)
async def test_what_cannot_be_is_named(
    http: AsyncClient, fields: dict[str, Any], param: str
) -> None:
    body = {"model": "scripted", "input": "go"} | fields
    response = await http.post("/v1/responses", json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
