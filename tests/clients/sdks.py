"""Clients that are Python libraries; each returns what it did."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

from pydantic import BaseModel

MESSAGES: Any = [{"role": "user", "content": "Is Rome large or small?"}]
PROMPT = "Rome is"
# Chosen: long enough for several chunks, short enough for a run of seconds.
MAX_TOKENS = 12
# Chosen: more than any answer below has within its schema.
ROOM = 200
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class City(BaseModel):
    """A city, in few words."""

    name: Literal["Rome", "Oslo"]
    large: bool


def openai_python(url: str, model: str) -> str:
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    limit: Any = {"model": model, "max_tokens": MAX_TOKENS}
    room: Any = {"model": model, "max_tokens": ROOM}
    client.chat.completions.create(messages=MESSAGES, **limit)
    chunks = client.chat.completions.create(messages=MESSAGES, stream=True, n=2, **limit)
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}
    with client.chat.completions.stream(messages=MESSAGES, **limit) as stream:
        stream.until_done()
    texts = client.completions.create(prompt=[PROMPT, PROMPT], seed=1, logprobs=1, **limit)
    assert len(texts.choices) == 2

    parsed = client.chat.completions.parse(messages=MESSAGES, response_format=City, **room)
    assert isinstance(parsed.choices[0].message.parsed, City)
    asked: Any = {"messages": MESSAGES, "tools": [WEATHER], **room}
    named = {"type": "function", "function": {"name": "weather"}}
    for choice in ("required", named):
        whole = client.chat.completions.create(tool_choice=choice, **asked)
        with client.chat.completions.stream(tool_choice=choice, **asked) as stream:
            streamed = stream.get_final_completion()
        for answer in (whole, streamed):
            (call, *_) = answer.choices[0].message.tool_calls or []
            assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")
            assert answer.choices[0].finish_reason == "tool_calls"
    message = whole.choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls
    ]
    history = [*MESSAGES, message, *results]
    client.chat.completions.create(messages=history, tools=[WEATHER], **limit)

    short: Any = {"model": model, "input": "Hello", "max_output_tokens": MAX_TOKENS}
    assert client.responses.create(**short).output_text
    with client.responses.stream(**short) as events:
        *_, last = events  # its helper for the whole answer wants one that was not cut off
    assert last.type in ("response.completed", "response.incomplete")
    assert last.response.output_text
    answer = client.responses.parse(
        model=model, input="Is Rome large?", text_format=City, max_output_tokens=ROOM
    )
    assert isinstance(answer.output_parsed, City)
    flat = {"type": "function", **WEATHER["function"]}
    called = client.responses.create(
        model=model, input="Rome?", tools=[flat], tool_choice="required", max_output_tokens=ROOM
    )
    assert {item.type for item in called.output} == {"function_call"}
    return "chat, completions, responses, streaming helpers, tools, structured outputs"


def litellm_sdk(url: str, model: str) -> str:
    import litellm

    fields: Any = {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": "none"}
    litellm.completion(messages=MESSAGES, max_tokens=MAX_TOKENS, **fields)
    chunks = litellm.completion(messages=MESSAGES, max_tokens=MAX_TOKENS, stream=True, **fields)
    assert list(chunks)
    whole = litellm.completion(
        messages=MESSAGES, tools=[WEATHER], tool_choice="required", max_tokens=ROOM, **fields
    )
    assert whole.choices[0].message.tool_calls
    shaped = litellm.completion(messages=MESSAGES, response_format=City, max_tokens=ROOM, **fields)
    City.model_validate_json(shaped.choices[0].message.content)
    litellm.responses(input="Hello", max_output_tokens=MAX_TOKENS, **fields)
    asyncio.run(litellm.acompletion(messages=MESSAGES, max_tokens=MAX_TOKENS, **fields))
    hosted = fields | {"model": f"hosted_vllm/{model}"}
    litellm.completion(messages=MESSAGES, max_tokens=MAX_TOKENS, **hosted)
    return "completion, stream, tools, response_format, responses; openai/ and hosted_vllm/"


def langchain(url: str, model: str) -> str:
    from langchain_core.messages import ToolMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    @tool
    def weather(city: Literal["Rome", "Oslo"]) -> str:
        """The weather of a city."""
        return f"It is sunny in {city}."

    at: Any = {"model": model, "base_url": f"{url}/v1", "api_key": "none", "max_retries": 0}
    chat = ChatOpenAI(max_tokens=MAX_TOKENS, **at)
    assert chat.invoke("Hello").content
    assert list(chat.stream("Hello"))
    roomy = ChatOpenAI(max_tokens=ROOM, **at)
    for choice in ("any", "weather"):
        bound = roomy.bind_tools([weather], tool_choice=choice)
        message = bound.invoke("How is it in Rome?")
        call = message.tool_calls[0]
        assert any(part.tool_calls for part in bound.stream("Rome?"))
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    chat.bind_tools([weather]).invoke(["How is it in Rome?", message, result])
    for method in ("json_schema", "function_calling"):
        shaped = roomy.with_structured_output(City, method=method)
        assert isinstance(shaped.invoke("Is Rome large?"), City)
    responses = ChatOpenAI(use_responses_api=True, max_tokens=MAX_TOKENS, **at)
    assert responses.invoke("Hello").content
    return "invoke, stream, bind_tools, with_structured_output (both methods), Responses API"


def pydantic_ai(url: str, model: str) -> str:
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="none")
    for kind in (OpenAIChatModel, OpenAIResponsesModel):
        served = kind(model, provider=provider)
        text = Agent(served, model_settings={"max_tokens": MAX_TOKENS})
        assert text.run_sync("Hello").output
        for output in (City, NativeOutput(City)):
            agent = Agent(served, output_type=output, model_settings={"max_tokens": ROOM})
            assert isinstance(agent.run_sync("Is Rome large?").output, City)
    seen: list[str] = []
    agent = Agent(
        OpenAIChatModel(model, provider=provider),
        output_type=[City],
        model_settings={"max_tokens": ROOM, "parallel_tool_calls": False},
    )

    def once(context: Any, tool: Any) -> Any:
        """A small model would ask for ever."""
        return None if seen else tool

    @agent.tool_plain(prepare=once)
    def weather(city: Literal["Rome", "Oslo"]) -> str:
        """The weather of a city."""
        seen.append(city)
        return f"It is sunny in {city}."

    assert isinstance(
        agent.run_sync("Ask for the weather of Rome, then tell its size").output, City
    )

    async def streamed() -> City:
        async with agent.run_stream("Is Oslo large?") as result:
            return await result.get_output()

    assert isinstance(asyncio.run(streamed()), City)
    return f"text, output_type, NativeOutput, tools ({len(seen)} calls), both APIs, streams"


def instructor_default(url: str, model: str) -> str:
    import instructor
    import openai

    client = instructor.from_openai(openai.OpenAI(base_url=f"{url}/v1", api_key="none"))
    asked: Any = {"model": model, "messages": MESSAGES, "max_tokens": ROOM, "max_retries": 1}
    assert isinstance(client.chat.completions.create(response_model=City, **asked), City)
    *_, last = client.chat.completions.create_partial(response_model=City, **asked)
    assert last.name in ("Rome", "Oslo")
    return "an object and a partial one, in the default mode (tools)"
