"""wisp demo: real processes, real requests, and an honest table.

Every request goes through an edge, and then once more to the server alone: the texts must be equal,
and the two times give the speed-up.
"""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict
from rich.console import Console
from rich.text import Text

from wisp.config import EngineKind, LocalPath, Settings, load
from wisp.demo.comparison import Comparison, Question, ask, askable, summarise
from wisp.demo.display import DRAFT_STYLE, TARGET_STYLE, explain, report
from wisp.demo.pairs import Pair, PairName, find_pair
from wisp.demo.trust import Trust
from wisp.errors import ConfigError
from wisp.launch import Process

_GENERAL_PROMPTS = [  # for pairs of the user's own
    {"kind": "chat", "prompt": "Explain speculative decoding to a programmer in a few sentences."},
    {"kind": "chat", "prompt": "Write a Python function that merges two sorted lists."},
    {"kind": "chat", "prompt": "What does a heap give that a sorted list does not?"},
    {"kind": "chat", "prompt": "List three reasons why a test may pass alone and fail in a suite."},
]


class DemoConfig(Settings):
    """wisp demo: a server and two edges on this machine, and what the edges gained."""

    model_config = SettingsConfigDict(env_prefix="WISP_DEMO_")

    pair: PairName = Field(
        "smollm2", description="a real chat model, fetched once, or the bundled tiny pair"
    )
    target: LocalPath | None = Field(
        None, description="another target: a Hugging Face directory; null: the pair's"
    )
    draft: LocalPath | None = Field(
        None, description="its drafter: a directory or a GGUF file; null: the pair's"
    )
    engine: EngineKind = Field("torch", description="the verifier behind the engine: torch or vllm")
    requests: int = Field(6, ge=1, description="requests, shared out to the two edges")
    max_tokens: int = Field(96, ge=2, description="tokens of an answer at most")
    as_json: bool = Field(
        False, validation_alias="json", description="print one JSON object and nothing else"
    )
    serve: bool = Field(False, description="stay up afterwards, until interrupted")


def run(arguments: Sequence[str]) -> int:
    """The exit code: 0 when every text equals what the target writes alone."""
    config = load(DemoConfig, arguments, "wisp demo")
    console = Console(stderr=config.as_json)
    pair = _pair(config, console)
    with ExitStack() as stack:
        # As an interrupt: what was begun here ends with it, and nothing is left behind.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        stack.callback(signal.signal, signal.SIGTERM, before)
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wisp-demo-")))
        with console.status("loading the target and two drafters"):
            server, edges = start(pair, config.engine, logs, stack)
        console.print(f"server {server.url}, edges {', '.join(edge.url for edge in edges)}")
        if not config.as_json:
            explain(console, pair)
        compared = [
            compare(number % 2, edges[number % 2], server, request, config, console)
            for number, request in enumerate(askable(server, pair, config.requests))
        ]
        summary = {"pair": pair.name} | summarise(compared)
        if config.as_json:
            print(json.dumps(summary))
        else:
            report(console, compared, summary)
        if config.serve:
            _stay(console, server, edges)
    return 0 if summary["lossless"] else 1


def _pair(config: DemoConfig, console: Console) -> Pair:
    """Raises ConfigError if one of two own models is missing."""
    if config.target is None and config.draft is None:
        return find_pair(config.pair, console.print)
    if config.target is None or config.draft is None:
        raise ConfigError("a target needs its drafter: give --target and --draft, or neither")
    for path in (config.target, config.draft):
        if not path.exists():
            raise ConfigError(f"there is no '{path}': give a local model")
    return Pair("own", config.target, config.draft, tuple(_GENERAL_PROMPTS))


def start(
    pair: Pair, engine: EngineKind, logs: Path, stack: ExitStack
) -> tuple[Process, list[Process]]:
    """A server and two edges that trust each other, until `stack` is closed."""
    trust = Trust(logs)
    server = stack.enter_context(
        Process(
            "server",
            *trust.server_flags,
            f"--target={pair.target}",
            f"--engine.kind={engine}",
            *pair.server_flags,
            "--http.port=0",
            "--grpc.port=0",
            log=logs / "server",
        )
    )
    edges = [
        stack.enter_context(
            Process(
                "edge",
                *trust.edge_flags,
                f"--draft={pair.draft}",
                f"--server=127.0.0.1:{server.facts['grpc']}",
                "--http.port=0",
                log=logs / f"edge{number}",
            )
        )
        for number in range(2)
    ]
    server.facts["key"] = trust.key
    return server, edges


def compare(
    number: int,
    edge: Process,
    server: Process,
    request: Question,
    config: DemoConfig,
    console: Console,
) -> Comparison:
    silent = config.as_json
    if not silent:
        console.rule(f"edge {number + 1}, temperature {request.temperature}", align="left")
        console.print(Text(request.prompt, "dim"))

    def show(text: str, drafted: bool) -> None:
        style = DRAFT_STYLE if drafted else TARGET_STYLE
        console.print(Text(text, style), end="", soft_wrap=True)

    model, max_tokens = server.facts["model"], config.max_tokens
    drafted = ask(edge, model, request, max_tokens, None if silent else show)
    if not silent:
        console.print()
    alone = ask(server, model, request, max_tokens, None, drafts=False)
    return Comparison(request, number, drafted, alone)


def _stay(console: Console, server: Process, edges: list[Process]) -> None:
    console.print(f"serving model '{server.facts['model']}' until interrupted (Ctrl-C):")
    for name, process in [("server", server), *(("edge", edge) for edge in edges)]:
        key = f" api_key={process.facts['key']}" if "key" in process.facts else ""
        console.print(f"  {name}: base_url={process.url}/v1{key}", soft_wrap=True)
    console.print(f"  live page: http://127.0.0.1:{server.facts['admin']}/")
    console.print(f"  chat in a browser: {edges[0].url}/")
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("stopping")
