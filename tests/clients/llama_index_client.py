"""LlamaIndex, which wants another version of OpenAI's SDK: `llama_index_client.py URL MODEL`."""

import sys
from typing import Any, Literal

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class City(BaseModel):
    """A city, in few words."""

    name: Literal["Rome", "Oslo"]
    large: bool


def weather(city: Literal["Rome", "Oslo"]) -> str:
    """The weather of a city."""
    return f"It is sunny in {city}."


def main(url: str, model: str) -> None:
    at: Any = {"model": model, "api_base": f"{url}/v1", "api_key": "none", "max_retries": 0}
    llm = OpenAILike(max_tokens=12, **at)
    assert llm.complete("Rome is").text
    assert list(llm.stream_complete("Rome is"))
    kind: Any = {"is_chat_model": True, "is_function_calling_model": True}
    chat = OpenAILike(max_tokens=200, **kind, **at)
    hello = [ChatMessage(role="user", content="Hello")]
    assert chat.chat(hello, max_tokens=12).message.content
    assert list(chat.stream_chat(hello, max_tokens=12))
    tools = [FunctionTool.from_defaults(weather)]
    answer = chat.chat_with_tools(tools, user_msg="Rome?", tool_required=True)
    assert chat.get_tool_calls_from_response(answer)
    shaped = chat.as_structured_llm(City).complete("Is Rome large?")
    assert isinstance(shaped.raw, City)
    print("complete, chat, streams, tools, structured output")


if __name__ == "__main__":
    main(*sys.argv[1:])
