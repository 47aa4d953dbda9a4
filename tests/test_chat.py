"""wisp chat against a real edge, and its sentences."""

from __future__ import annotations

import io

import httpx
import pytest
from rich.console import Console

from wisp import chat
from wisp.chat import ChatAnswer, ChatConfig, status
from wisp.errors import BadRequest, Unavailable
from wisp.launch import Process


class Script(Console):
    """A terminal whose user has prepared what to say."""

    def __init__(self, *lines: str) -> None:
        super().__init__(file=io.StringIO(), width=200)
        self.lines = list(lines)

    def input(self, *_: object, **__: object) -> str:
        if not self.lines:
            raise EOFError
        return self.lines.pop(0)

    @property
    def said(self) -> str:
        assert isinstance(self.file, io.StringIO)
        return self.file.getvalue()


def test_a_conversation_goes_on(edge: Process) -> None:
    console = Script("What does os.listdir do?", "And os.walk?")
    config = ChatConfig(url=edge.url, max_tokens=24)
    asked: list[int] = []
    with httpx.Client(
        base_url=edge.url,
        timeout=60,
        event_hooks={"request": [lambda request: asked.append(request.content.count(b'"role"'))]},
    ) as client:
        model = chat.first_model(client)
        chat.converse(client, config, model, console)
    assert model == "target"
    assert asked[-2:] == [1, 3]  # the second question comes with the first and its answer
    assert console.said.count("tokens/s") == 2
    assert "promise kept" in console.said or "promise missed" in console.said


def test_what_the_endpoint_refuses_is_said(edge: Process) -> None:
    config = ChatConfig(url=edge.url, slo="no-such-class")
    with (
        httpx.Client(base_url=edge.url, timeout=60) as client,
        pytest.raises(BadRequest, match=r"refuses: .*no-such-class"),
    ):
        chat.converse(client, config, "target", Script("Hello"))


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_nobody_there_gets_a_sentence(scheme: str) -> None:
    with pytest.raises(Unavailable, match=r"is out of reach: start it, or give --url .*refused"):
        chat.run([f"--url={scheme}127.0.0.1:9"])


def test_the_status_line() -> None:
    counts = {"acceptance": 0.5, "tokens_per_step": 2.0, "slo_met": True}
    answer = ChatAnswer("text", {"completion_tokens": 30, "wisp": counts}, time_s=2.0)
    assert status(answer) == (
        "30 tokens, 15.0 tokens/s, acceptance 50%, 2.00 tokens per step, promise kept"
    )
    assert status(ChatAnswer("", {}, 1.0)) == "0 tokens, 0.0 tokens/s"
