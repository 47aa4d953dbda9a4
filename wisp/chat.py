"""wisp chat: a conversation in the terminal with any endpoint, accepted drafts in a colour."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import Field
from pydantic_settings import SettingsConfigDict
from rich.console import Console
from rich.text import Text

from wisp.config import Settings, load
from wisp.errors import BadRequest, Unavailable

Message = dict[str, str]
Show = Callable[[str, bool], None]
"""Gets a piece of the answer, and whether an edge's accepted drafts wrote it."""

_STYLES = {True: "green", False: "bold yellow"}  # those of the demo
# Between two events of a stream; chosen: a busy server may prefill a long prompt for as long.
_READ_TIMEOUT_S = 120.0


class ChatConfig(Settings):
    """wisp chat: a conversation with an edge or a server, in the terminal."""

    model_config = SettingsConfigDict(env_prefix="WISP_CHAT_")

    url: str = Field("http://127.0.0.1:8010", description="of an edge or a server")
    model: str | None = Field(None, description="which model; null: the first that is served")
    key: str | None = Field(None, description="API key; null: none")
    system: str | None = Field(None, description="system prompt; null: the model's own")
    temperature: float = Field(0.0, ge=0, le=2, description="0: the likeliest token each time")
    max_tokens: int = Field(512, ge=1, description="tokens of an answer at most")
    slo: str | None = Field(None, description="SLO class by name; null: the server's default")


@dataclass(frozen=True)
class ChatAnswer:
    text: str
    usage: dict[str, Any]
    time_s: float


def run(arguments: Sequence[str]) -> int:
    """The exit code.

    Raises Unavailable if the endpoint is out of reach, BadRequest if it refuses.
    """
    config = load(ChatConfig, arguments, "wisp chat")
    console = Console()
    headers = {"authorization": f"Bearer {config.key}"} if config.key else {}
    timeout = httpx.Timeout(5.0, read=_READ_TIMEOUT_S)  # to connect, and between two events
    url = config.url if "://" in config.url else f"http://{config.url}"
    with httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout) as client:
        model = config.model or first_model(client)
        legend = Text("Written by ").append("accepted drafts", _STYLES[True])
        console.print(
            legend.append(" and ").append("the target itself", _STYLES[False]).append(".")
        )
        console.print(f"[dim]{model} at {url}; an empty line or Ctrl-D ends it[/dim]")
        converse(client, config, model, console)
    return 0


def converse(client: httpx.Client, config: ChatConfig, model: str, console: Console) -> None:
    """Questions until there are no more; one that is interrupted is left out of what follows."""
    messages: list[Message] = []
    if config.system is not None:
        messages.append({"role": "system", "content": config.system})

    def show(text: str, drafted: bool) -> None:
        console.print(Text(text, _STYLES[drafted]), end="", soft_wrap=True)

    while True:
        try:
            question = console.input("[bold]> [/bold]").strip()
        except EOFError:
            return
        if not question:
            return
        messages.append({"role": "user", "content": question})
        try:
            answer = ask(client, config, model, messages, show)
        except KeyboardInterrupt:
            console.print("\n[dim]interrupted[/dim]")
            messages.pop()
            continue
        console.print()
        console.print(f"[dim]{status(answer)}[/dim]", highlight=False)
        messages.append({"role": "assistant", "content": answer.text})


def ask(
    client: httpx.Client, config: ChatConfig, model: str, messages: list[Message], show: Show
) -> ChatAnswer:
    """One answer, shown as it comes."""
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "max_tokens": config.max_tokens,
        "temperature": config.temperature,
        "seed": int.from_bytes(os.urandom(4), "big"),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if config.slo:
        body["wisp"] = {"slo": config.slo}
    text, start_s = "", time.monotonic()
    usage: dict[str, Any] = {}
    for chunk in _events(client, body):
        usage = chunk.get("usage") or usage
        for piece, drafted in (chunk.get("wisp") or {}).get("segments", ()):
            text += piece
            show(piece, bool(drafted))
    return ChatAnswer(text, usage, time.monotonic() - start_s)


def status(answer: ChatAnswer) -> str:
    """Tokens a second, acceptance, and whether the promise was kept."""
    counts = answer.usage.get("wisp") or {}
    num_tokens = answer.usage.get("completion_tokens", 0)
    parts = [f"{num_tokens} tokens, {num_tokens / max(answer.time_s, 1e-9):.1f} tokens/s"]
    if counts.get("acceptance") is not None:
        parts.append(f"acceptance {counts['acceptance']:.0%}")
    if counts.get("tokens_per_step"):
        parts.append(f"{counts['tokens_per_step']:.2f} tokens per step")
    if (kept := counts.get("slo_met")) is not None:
        parts.append(f"promise {'kept' if kept else 'missed'}")
    return ", ".join(parts)


def first_model(client: httpx.Client) -> str:
    try:
        response = client.get("/v1/models")
    except httpx.HTTPError as error:
        raise _out_of_reach(client, error) from error
    _check(response)
    return str(response.json()["data"][0]["id"])


def _events(client: httpx.Client, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                response.read()
            _check(response)
            for line in response.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        raise Unavailable(str(event["error"].get("message", event["error"])))
                    yield event
    except httpx.HTTPError as error:
        raise _out_of_reach(client, error) from error


def _check(response: httpx.Response) -> None:
    """Raises what the endpoint said, as the error of its kind."""
    if not response.is_error:
        return
    try:
        said = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = f"status {response.status_code}"
    kind = BadRequest if response.is_client_error else Unavailable
    raise kind(f"{response.request.url} refuses: {said}")


def _out_of_reach(client: httpx.Client, error: httpx.HTTPError) -> Unavailable:
    return Unavailable(f"{client.base_url} is out of reach: start it, or give --url ({error})")
