"""Runs each client once against an endpoint and says what came of it: `drive.py URL`.

The bundled pair's answers are not good, so that a client passes when it gets an answer of the right
shape. What needs a model that knows tools or an engine with structured outputs is told as such.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

MESSAGES: Any = [{"role": "user", "content": "Write the function shutil.copyfile."}]
PROMPT = "def read_file(path):\n"
# Chosen: long enough for several chunks, short enough for a run of seconds.
MAX_TOKENS = 12
Check = Callable[[str, str], str]


def openai_python(base: str, model: str) -> str:
    import openai

    client = openai.OpenAI(base_url=base, api_key="none", max_retries=0)
    limit: Any = {"model": model, "max_tokens": MAX_TOKENS}
    client.chat.completions.create(messages=MESSAGES, **limit)
    chunks = client.chat.completions.create(messages=MESSAGES, stream=True, n=2, **limit)
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}
    with client.chat.completions.stream(messages=MESSAGES, **limit) as stream:
        stream.until_done()
    texts = client.completions.create(prompt=[PROMPT, PROMPT], seed=1, logprobs=1, **limit)
    assert len(texts.choices) == 2
    answer = client.responses.create(model=model, input="Hello", max_output_tokens=MAX_TOKENS)
    assert answer.output
    with client.responses.stream(
        model=model, input="Hello", max_output_tokens=MAX_TOKENS
    ) as events:
        kinds = [event.type for event in events]
        assert kinds[-1] in ("response.completed", "response.incomplete")
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    try:
        client.chat.completions.create(messages=MESSAGES, tools=[tool], **limit)
    except openai.BadRequestError:
        return "chat, completions, responses, streaming helpers; tools refused by this model"
    return "chat, completions, responses, streaming helpers, tools"


def litellm_sdk(base: str, model: str) -> str:
    import litellm

    fields: Any = {"model": f"openai/{model}", "api_base": base, "api_key": "none"}
    litellm.completion(messages=MESSAGES, max_tokens=MAX_TOKENS, **fields)
    chunks = litellm.completion(messages=MESSAGES, max_tokens=MAX_TOKENS, stream=True, **fields)
    assert list(chunks)
    litellm.responses(input="Hello", max_output_tokens=MAX_TOKENS, **fields)
    return "completion, stream, responses"


def langchain(base: str, model: str) -> str:
    from langchain_openai import ChatOpenAI

    chat: Any = ChatOpenAI(model=model, base_url=base, api_key="none", max_tokens=MAX_TOKENS)
    chat.invoke("Hello")
    assert list(chat.stream("Hello"))
    return "invoke, stream"


def pydantic_ai(base: str, model: str) -> str:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=base, api_key="none")
    agent = Agent(OpenAIChatModel(model, provider=provider))
    agent.run_sync("Hello", model_settings={"max_tokens": MAX_TOKENS})
    return "text"


def llama_index(base: str, model: str) -> str:
    from llama_index.llms.openai_like import OpenAILike

    llm: Any = OpenAILike(model=model, api_base=base, api_key="none", max_tokens=MAX_TOKENS)
    llm.complete(PROMPT)
    assert list(llm.stream_complete(PROMPT))
    return "complete, stream"


CHECKS: list[Check] = [openai_python, litellm_sdk, langchain, pydantic_ai, llama_index]


def main() -> int:
    import httpx

    base = f"{sys.argv[1]}/v1"
    model = httpx.get(f"{base}/models").json()["data"][0]["id"]
    num_failed = 0
    for check in CHECKS:
        try:
            print(f"pass {check.__name__}: {check(base, model)}", flush=True)
        except Exception:
            num_failed += 1
            print(f"FAIL {check.__name__}: {traceback.format_exc(limit=-2)}", flush=True)
    print(f"{sys.argv[1]}: {num_failed} of {len(CHECKS)} failed")
    return int(num_failed > 0)


if __name__ == "__main__":
    sys.exit(main())
