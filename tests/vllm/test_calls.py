"""Tools on real models: calls that the engine enforces, whole and streamed, at both endpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.clients.pair import OPTIONS, with_tools
from tests.conftest import start_edge, start_server
from wisp.config import SMOLLM2, TINY
from wisp.launch import Process
from wisp.models.public.catalogue import SMOLLM2 as TARGET
from wisp.models.public.library import installed
from wisp.openai.tool_calls import Hermes

ASK: Any = [{"role": "user", "content": "How is the weather in Rome, and in Oslo?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Rome", "Oslo"]},
                "day": {"type": "integer", "minimum": 1, "maximum": 31},
            },
            "required": ["city", "day"],
            "additionalProperties": False,
        },
    },
}
SIZE: Any = {
    "type": "function",
    "function": {
        "name": "size",
        "parameters": {
            "type": "object",
            "properties": {"of": {"enum": ["Rome", "Oslo"]}},
            "required": ["of"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module", params=["tiny", "smollm2"])
def endpoints(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, logs: Path
) -> Iterator[list[Process]]:
    """A server and an edge; the second model is there where `wisp models get` has fetched it."""
    target, draft = TINY / "target", TINY / "draft"
    if request.param == "smollm2":
        found, draft = installed(TARGET), SMOLLM2
        if found is None:
            pytest.skip("the target is not here: wisp models get smollm2")
        target = found
    served = with_tools(target, tmp_path_factory.mktemp("served"))
    with (
        start_server(
            logs,
            f"--target={served}",
            "--model=target",
            "--engine.kind=vllm",
            "--engine.max_model_len=1024",
            f"--engine.options={json.dumps(OPTIONS)}",
            "--estimator.profile_s=0",
        ) as server,
        start_edge(server, logs, f"--draft={draft}") as edge,
    ):
        yield [server, edge]


def asked(endpoint: Process, *, stream: bool, **fields: Any) -> Any:
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none") as client:
        fields = {"model": "target", "messages": ASK, "max_tokens": 200, "seed": 3} | fields
        if not stream:
            return client.chat.completions.create(**fields).choices[0]
        with client.chat.completions.stream(**fields) as events:
            return events.get_final_completion().choices[0]


def calls_of(choice: Any) -> list[tuple[str, dict[str, Any]]]:
    assert choice.finish_reason == "tool_calls", choice
    assert not choice.message.content
    return [(c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls]


def is_weather(arguments: dict[str, Any]) -> bool:
    return (
        arguments.keys() == {"city", "day"}
        and arguments["city"] in ("Rome", "Oslo")
        and arguments["day"] in range(1, 32)
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_call_that_is_required(endpoints: list[Process], temperature: float) -> None:
    fields: Any = {"tools": [WEATHER, SIZE], "tool_choice": "required", "temperature": temperature}
    found = [
        calls_of(asked(endpoint, stream=stream, parallel_tool_calls=False, **fields))
        for endpoint in endpoints
        for stream in (False, True)
    ]
    assert all(calls == found[0] for calls in found)
    ((name, arguments),) = found[0]
    if name == "weather":
        assert is_weather(arguments)
    else:
        assert arguments in ({"of": "Rome"}, {"of": "Oslo"})


def test_the_function_that_is_named(endpoints: list[Process]) -> None:
    for function, holds in (
        (WEATHER, is_weather),
        (SIZE, lambda a: a in ({"of": "Rome"}, {"of": "Oslo"})),
    ):
        name = function["function"]["name"]
        choice: Any = {"type": "function", "function": {"name": name}}
        for endpoint in endpoints:
            for stream in (False, True):
                fields: Any = {"tools": [WEATHER, SIZE], "tool_choice": choice}
                ((called, arguments),) = calls_of(asked(endpoint, stream=stream, **fields))
                assert called == name
                assert holds(arguments)


def test_a_strict_function_binds_calls_that_need_not_come() -> None:
    """The grammar of a free answer: text, and calls that keep to the schemas."""
    import xgrammar
    from xgrammar.testing import _is_grammar_accept_string

    functions = [WEATHER["function"], {"name": "other"}]
    grammar = xgrammar.Grammar.from_structural_tag(json.dumps(Hermes.tags_of(functions)))
    call = '<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call>'
    rome = call % ("weather", '{"city": "Rome", "day": 3}')
    for text in ("No call.", "", rome, f"So: {rome}{rome}", call % ("other", '{"a": [1]}')):
        assert _is_grammar_accept_string(grammar, text), text
    for arguments in (
        '{"city": "Bern", "day": 3}',
        '{"city": "Rome"}',
        '{"city": "Rome", "day": 0}',
    ):
        assert not _is_grammar_accept_string(grammar, call % ("weather", arguments))
    assert not _is_grammar_accept_string(grammar, call % ("unknown", "{}"))


def test_a_free_answer_with_strict_functions(endpoints: list[Process]) -> None:
    """The same text by both endpoints, also where a grammar goes along with it."""
    texts = []
    for endpoint in endpoints:
        with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none") as client:
            fields: Any = {"model": "target", "messages": ASK, "tools": [WEATHER], "seed": 3}
            whole = client.chat.completions.create(max_tokens=60, **fields).choices[0].message
            chunks = list(client.chat.completions.create(max_tokens=60, stream=True, **fields))
        deltas = [chunk.choices[0].delta for chunk in chunks]
        streamed = [call for delta in deltas for call in delta.tool_calls or []]
        calls = [call.function.arguments for call in whole.tool_calls or []]
        assert calls == [call.function.arguments for call in streamed if call.function]
        assert all(is_weather(json.loads(arguments)) for arguments in calls)
        text = "".join(delta.content or "" for delta in deltas)
        assert text.strip() == (whole.content or "").strip()
        texts.append((text, calls))
    assert texts[0] == texts[1]


def test_the_result_of_a_call_goes_on(endpoints: list[Process]) -> None:
    for endpoint in endpoints:
        fields: Any = {"tools": [WEATHER], "tool_choice": "required"}
        choice = asked(endpoint, stream=False, parallel_tool_calls=False, **fields)
        (call,) = choice.message.tool_calls
        result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        history = [*ASK, choice.message.model_dump(exclude_none=True), result]
        after = asked(endpoint, stream=False, messages=history, tools=[WEATHER], max_tokens=8)
        assert after.message.content or after.message.tool_calls
