"""wisp demo: real processes, real requests, and an honest table.

Every request goes through an edge, and then once more to the server alone: the texts must be equal,
and the two times give the speed-up.
"""

from __future__ import annotations

import json
import random
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from openai import BadRequestError, OpenAI
from pydantic import Field
from pydantic_settings import SettingsConfigDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wisp.config import EngineKind, LocalPath, Settings, load
from wisp.demo_trust import Trust
from wisp.errors import ConfigError
from wisp.launch import Process
from wisp.pairs import Pair, PairName, find_pair

# Chooses the prompts and the noise of every run, so that all runs show the same. Chosen: the date
# on which it was written.
SEED = 20260111
_DRAFT_STYLE, _TARGET_STYLE = "green", "bold yellow"
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


@dataclass(frozen=True)
class Question:
    kind: str  # "text" goes on with the prompt; any other is a question to answer
    prompt: str
    temperature: float
    seed: int

    @property
    def body(self) -> dict[str, Any]:
        if self.kind == "text":
            return {"prompt": self.prompt}
        return {"messages": [{"role": "user", "content": self.prompt}]}


@dataclass(frozen=True)
class Reply:
    text: str
    usage: dict[str, Any]
    time_s: float

    @property
    def num_tokens(self) -> int:
        return int(self.usage["completion_tokens"])


@dataclass(frozen=True)
class Comparison:
    """One request, answered through an edge and by the target alone."""

    request: Question
    edge: int
    drafted: Reply
    alone: Reply

    @property
    def equal(self) -> bool:
        return self.drafted.text == self.alone.text

    @property
    def wisp(self) -> dict[str, Any]:
        counts: dict[str, Any] = self.drafted.usage["wisp"]
        return counts


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
            _explain(console, pair)
        compared = [
            compare(number % 2, edges[number % 2], server, request, config, console)
            for number, request in enumerate(_askable(server, pair, config.requests))
        ]
        summary = {"pair": pair.name} | _summarise(compared)
        if config.as_json:
            print(json.dumps(summary))
        else:
            _report(console, compared, summary)
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


def _askable(server: Process, pair: Pair, num: int) -> list[Question]:
    """Without a chat template a model of the user's completes texts."""
    questions = _requests(pair, num)
    client = OpenAI(
        base_url=f"{server.url}/v1", api_key=server.facts.get("key", "none"), max_retries=0
    )
    messages: Any = [{"role": "user", "content": "Hello"}]
    try:
        client.chat.completions.create(
            model=server.facts["model"], messages=messages, max_completion_tokens=1
        )
    except BadRequestError:
        return [replace(question, kind="text") for question in questions]
    return questions


def _requests(pair: Pair, num: int) -> list[Question]:
    """Questions of each kind in turn."""
    chooser = random.Random(SEED)
    kinds = cycle(dict.fromkeys(prompt["kind"] for prompt in pair.prompts))
    chosen = [
        chooser.choice([p for p in pair.prompts if p["kind"] == kind])
        for kind in islice(kinds, num)
    ]
    return [
        Question(prompt["kind"], prompt["prompt"], 0.0 if number % 4 < 2 else 0.8, SEED + number)
        for number, prompt in enumerate(chosen)
    ]


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
        style = _DRAFT_STYLE if drafted else _TARGET_STYLE
        console.print(Text(text, style), end="", soft_wrap=True)

    drafted = _ask(edge, server.facts["model"], request, config, None if silent else show)
    if not silent:
        console.print()
    alone = _ask(server, server.facts["model"], request, config, None, drafts=False)
    return Comparison(request, number, drafted, alone)


def _ask(
    process: Process,
    model: str,
    request: Question,
    config: DemoConfig,
    show: Callable[[str, bool], None] | None,
    *,
    drafts: bool = True,
) -> Reply:
    """Without `drafts` not even the server makes any, of n-grams of the text."""
    key = process.facts.get("key", "none")
    client: Any = OpenAI(base_url=f"{process.url}/v1", api_key=key, max_retries=0)
    create = client.completions if request.kind == "text" else client.chat.completions
    start_s = time.monotonic()
    text, usage = "", {}
    for chunk in create.create(
        model=model,
        max_tokens=config.max_tokens,
        temperature=request.temperature,
        seed=request.seed,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"wisp": {"speculation": drafts}},
        **request.body,
    ):
        if chunk.usage:
            usage = chunk.usage.model_dump()
        for segment, drafted in (chunk.model_extra.get("wisp") or {}).get("segments", ()):
            text += segment
            if show:
                show(segment, drafted)
    return Reply(text, usage, time.monotonic() - start_s)


def _summarise(pairs: list[Comparison]) -> dict[str, Any]:
    """Of all requests together, and of those of each temperature."""
    by_temperature: dict[str, Any] = {}
    for temperature in sorted({pair.request.temperature for pair in pairs}):
        alike = [pair for pair in pairs if pair.request.temperature == temperature]
        by_temperature[str(temperature)] = figures(alike)
    return figures(pairs) | {"by_temperature": by_temperature, "seed": SEED}


def figures(pairs: list[Comparison]) -> dict[str, Any]:
    def total(key: str) -> float:
        return sum(float(pair.wisp[key]) for pair in pairs)

    num_tokens = sum(pair.drafted.num_tokens for pair in pairs)
    alone_s = sum(pair.alone.time_s for pair in pairs)
    drafted_s = sum(pair.drafted.time_s for pair in pairs)
    return {
        "lossless": all(pair.equal for pair in pairs),
        "requests": len(pairs),
        "tokens": num_tokens,
        "acceptance": total("accepted_tokens") / max(1, total("drafted_tokens")),
        "tokens_per_step": num_tokens / total("steps"),
        "wasted_draft_share": total("edge_wasted_tokens") / max(1, total("edge_drafted_tokens")),
        "tokens_per_s": num_tokens / drafted_s,
        "tokens_per_s_alone": num_tokens / alone_s,
        "speedup": alone_s / drafted_s,
    }


def _explain(console: Console, pair: Pair) -> None:
    if pair.name == "tiny":
        console.print("The bundled pair is tiny: it shows the mechanism, not good answers.")
    legend = Text("Written by ")
    legend.append("the edge's accepted drafts", _DRAFT_STYLE).append(" and ")
    legend.append("the target itself", _TARGET_STYLE).append(":")
    console.print(legend)


def _report(console: Console, pairs: list[Comparison], summary: dict[str, Any]) -> None:
    table = Table(title="Through an edge, and by the target alone")
    columns = "edge", "temp.", "tokens", "accepted", "tok/step", "wasted", "tok/s", "alone", "equal"
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for pair in pairs:
        table.add_row(
            str(pair.edge + 1),
            str(pair.request.temperature),
            str(pair.drafted.num_tokens),
            f"{pair.wisp['acceptance'] or 0:.0%}",
            f"{pair.wisp['tokens_per_step']:.2f}",
            f"{pair.wisp['wasted_draft_share']:.0%}",
            f"{pair.drafted.num_tokens / pair.drafted.time_s:.0f}",
            f"{pair.alone.num_tokens / pair.alone.time_s:.0f}",
            "yes" if pair.equal else "NO",
        )
    console.print(table)
    for temperature, found in summary["by_temperature"].items():
        console.print(
            f"temperature {temperature}: {found['speedup']:.2f} x the speed of the target alone, "
            f"acceptance {found['acceptance']:.0%}, {found['tokens_per_step']:.2f} tokens per "
            f"step of the target, {found['wasted_draft_share']:.0%} of drafting wasted"
        )
    if summary["lossless"]:
        console.print(f"lossless: all {len(pairs)} texts equal what the target writes alone")
    else:
        wrong = sum(not pair.equal for pair in pairs)
        console.print(f"NOT lossless: {wrong} of {len(pairs)} texts differ", style="bold red")


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
