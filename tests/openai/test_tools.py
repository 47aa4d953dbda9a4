"""Tools: in the prompt, in what models write, whole and streamed, and as the SDK reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from httpx import AsyncClient
from openai import AsyncOpenAI

from tests.openai.tools import CALL, TEMPLATE, WEATHER, with_tools
from wisp.core.request import TAGS
from wisp.models.tokenizer import Tokenizer
from wisp.openai.tool_calls import Call, Hermes, ToolParser, WholeJson, format_of
from wisp.testing.scripted_backend import Script, ScriptedBackend

OTHER: Any = {"type": "function", "function": {"name": "other"}}
ASK: Any = [{"role": "user", "content": "how is it in Rome?"}]


@pytest.fixture
def backend(tokenizer: Tokenizer) -> ScriptedBackend:
    return ScriptedBackend(with_tools(tokenizer))


def parsed(parser: ToolParser, text: str, size: int) -> tuple[str, list[tuple[str, str]]]:
    given, calls = "", []
    for start in range(0, len(text), size):
        piece, found = parser.add(text[start : start + size])
        given += piece
        calls += found
    piece, found = parser.flush()
    return given + piece, [(call.name, call.arguments) for call in [*calls, *found]]


JSON = '{"name": "weather", "arguments": {"city": "Rome"}}'
ROME = ("weather", '{"city": "Rome"}')


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("parser", "text", "given", "calls"),
    [
        (Hermes, "plain < text", "plain < text", []),
        (Hermes, f"So: {CALL}", "So: ", [ROME]),
        (Hermes, CALL + CALL, "", [ROME, ROME]),
        (Hermes, CALL.removesuffix("\n</tool_call>"), "", [ROME]),
        (Hermes, "<tool_call>no</tool_call>!", "<tool_call>no</tool_call>!", []),
        (Hermes, "a <tool_c", "a <tool_c", []),
        (WholeJson, "plain [text]", "plain [text]", []),
        (WholeJson, '{"name": "weather", "parameters": {"city": "Rome"}}', "", [ROME]),
        (WholeJson, '[{"name": "weather", "arguments": {"city": "Rome"}}]', "", [ROME]),
        (WholeJson, f"[TOOL_CALLS] [{JSON}]", "", [ROME]),
        (WholeJson, f"[{JSON},\n{JSON}]", "", [ROME, ROME]),
        (WholeJson, f'[{JSON}, {{"name": "wea', "", [ROME]),
        (WholeJson, f"<|python_tag|>[{JSON}, ", "", [ROME]),
        (WholeJson, '[{"name": 5}, 2]', '[{"name": 5}, 2]', []),
        (WholeJson, "[", "[", []),
        (WholeJson, f"<|python_tag|>{JSON}", "", [ROME]),
        (WholeJson, '{"name": 5}', '{"name": 5}', []),
        (WholeJson, '{"half": ', '{"half": ', []),
    ],
)
def test_calls_are_found_however_the_text_is_split(
    parser: type[ToolParser], text: str, given: str, calls: list[tuple[str, str]], size: int
) -> None:
    assert parsed(parser(), text, size) == (given, calls)


def test_a_template_tells_its_format() -> None:
    assert format_of(TEMPLATE) is Hermes
    assert format_of("{{ tools }} [TOOL_CALLS]") is WholeJson


async def test_a_call_and_the_answer_to_its_result(
    backend: ScriptedBackend, sdk: AsyncOpenAI
) -> None:
    backend.script = Script(tokens=backend.tokenizer.encode(CALL))
    answer = await sdk.chat.completions.create(model="scripted", messages=ASK, tools=[WEATHER])
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ROME
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    backend.script = Script(tokens=backend.tokenizer.encode("It is sunny."))
    messages: Any = [*ASK, choice.message.model_dump(), result]
    after = await sdk.chat.completions.create(model="scripted", messages=messages, tools=[WEATHER])
    assert after.choices[0].message.content == "It is sunny."
    assert after.choices[0].finish_reason == "stop"
    prompt = backend.tokenizer.decode(backend.generations[-1].request.prompt)
    assert prompt.endswith("[assistant]<tool_call>weather Rome</tool_call>[tool]sunny")
    assert '"name": "weather"' in prompt


async def test_calls_in_a_stream(backend: ScriptedBackend, sdk: AsyncOpenAI) -> None:
    backend.script = Script(tokens=backend.tokenizer.encode("So: " + CALL + CALL))
    async with sdk.chat.completions.stream(
        model="scripted", messages=ASK, tools=[WEATHER]
    ) as stream:
        final = await stream.get_final_completion()
    (choice,) = final.choices
    assert choice.message.content == "So: "
    assert choice.finish_reason == "tool_calls"
    assert [call.function.arguments for call in choice.message.tool_calls or []] == [ROME[1]] * 2
    one = await sdk.chat.completions.create(
        model="scripted", messages=ASK, tools=[WEATHER], parallel_tool_calls=False
    )
    assert len(one.choices[0].message.tool_calls or []) == 1


async def test_calls_before_a_cut_are_calls(backend: ScriptedBackend, sdk: AsyncOpenAI) -> None:
    """They came as text; and each comes when it is complete, not at the end."""
    text = json.dumps([{"name": "weather", "parameters": {"city": "Rome"}}] * 9)
    tokens = backend.tokenizer.encode(text)
    backend.script = Script(tokens=tokens)
    asked: Any = {"model": "scripted", "messages": ASK, "tools": [WEATHER]}
    asked |= {"tool_choice": "required", "max_tokens": len(tokens) // 2}
    whole = (await sdk.chat.completions.create(**asked)).choices[0]
    chunks = [c async for c in await sdk.chat.completions.create(stream=True, **asked)]
    streamed = [call for c in chunks for call in c.choices[0].delta.tool_calls or []]
    assert len(whole.message.tool_calls or []) == len(streamed) == 4
    assert {call.function.arguments for call in streamed if call.function} == {ROME[1]}
    assert [call.index for call in streamed] == [0, 1, 2, 3]
    assert whole.finish_reason == chunks[-1].choices[0].finish_reason == "length"
    assert not whole.message.content
    first = next(i for i, c in enumerate(chunks) if c.choices[0].delta.tool_calls)
    last = max(i for i, c in enumerate(chunks) if c.choices[0].delta.tool_calls)
    assert last > first


async def test_none_asks_for_nothing(backend: ScriptedBackend, sdk: AsyncOpenAI) -> None:
    backend.script = Script(tokens=backend.tokenizer.encode(CALL))
    answer = await sdk.chat.completions.create(
        model="scripted", messages=ASK, tools=[WEATHER], tool_choice="none"
    )
    assert answer.choices[0].message.content == CALL
    assert "weather" not in backend.tokenizer.decode(backend.generations[0].request.prompt)


async def test_a_call_can_be_enforced(backend: ScriptedBackend, sdk: AsyncOpenAI) -> None:
    backend.script = Script(tokens=backend.tokenizer.encode('{"city": "Rome"}'))
    named: Any = {"type": "function", "function": {"name": "weather"}}
    answer = await sdk.chat.completions.create(
        model="scripted", messages=ASK, tools=[WEATHER, OTHER], tool_choice=named
    )
    assert [c.function.arguments for c in answer.choices[0].message.tool_calls or []] == [ROME[1]]  # type: ignore[union-attr]
    structure = backend.generations[0].request.sampling.structure
    assert structure
    assert json.loads(structure.text) == WEATHER["function"]["parameters"]

    text = json.dumps([{"name": "other", "parameters": {}}])
    backend.script = Script(tokens=backend.tokenizer.encode(text))
    answer = await sdk.chat.completions.create(
        model="scripted", messages=ASK, tools=[WEATHER, OTHER], tool_choice="required"
    )
    assert [c.function.name for c in answer.choices[0].message.tool_calls or []] == ["other"]  # type: ignore[union-attr]
    structure = backend.generations[1].request.sampling.structure
    assert structure
    schema = json.loads(structure.text)
    assert (schema["type"], schema["minItems"]) == ("array", 1)
    names = [item["properties"]["name"]["enum"] for item in schema["items"]["anyOf"]]
    assert names == [["weather"], ["other"]]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "sunny"}, "messages[0]"),
        ({"role": "user", "content": "a", "tool_call_id": "x"}, "messages[0]"),
        (
            {
                "role": "user",
                "content": "a",
                "tool_calls": [{"id": "x", "function": {"name": "f"}}],
            },
            "messages[0]",
        ),
    ],
)
async def test_wrong_history_is_named(http: AsyncClient, message: Any, param: str) -> None:
    body = {"model": "scripted", "messages": [message]}
    response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("arguments", ["5", "{", "no JSON at all"])
async def test_what_a_model_wrote_wrongly_may_be_sent_back(
    backend: ScriptedBackend, http: AsyncClient, arguments: str
) -> None:
    """Agents do, to say what was wrong with it: that was refused, and ended the agent's run."""
    call = {"id": "x", "function": {"name": "weather", "arguments": arguments}}
    result = {"role": "tool", "tool_call_id": "x", "content": "that was no object"}
    history = [*ASK, {"role": "assistant", "tool_calls": [call]}, result]
    body = {"model": "scripted", "messages": history, "tools": [WEATHER]}
    response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    prompt = backend.tokenizer.decode(backend.generations[0].request.prompt)
    assert prompt.endswith("<tool_call>weather </tool_call>[tool]that was no object")


async def test_strict_functions_bind_calls_that_need_not_come(
    backend: ScriptedBackend, sdk: AsyncOpenAI
) -> None:
    strict: Any = {"type": "function", "function": WEATHER["function"] | {"strict": True}}
    for tools, is_bound in (([WEATHER], False), ([strict, OTHER], True)):
        await sdk.chat.completions.create(model="scripted", messages=ASK, tools=tools)
        structure = backend.generations[-1].request.sampling.structure
        assert (structure is not None) == is_bound
    assert structure
    assert structure.kind == TAGS
    form = json.loads(structure.text)["format"]
    assert form["triggers"] == ["<tool_call>"]
    assert [tag["content"]["json_schema"] for tag in form["tags"]] == [
        WEATHER["function"]["parameters"],
        {"type": "object"},
    ]
    assert form["tags"][0]["begin"] == '<tool_call>\n{"name": "weather", "arguments": '


def test_a_call_has_an_id_of_its_own() -> None:
    _, calls = Hermes().add(CALL + CALL)
    assert all(isinstance(call, Call) for call in calls)
    assert calls[0].id != calls[1].id
    assert calls[0].id.startswith("call_")
