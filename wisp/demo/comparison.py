"""Questions answered through an edge, and by the target alone; what the edges gained by it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

from openai import BadRequestError, OpenAI

from wisp.demo.pairs import Pair
from wisp.launch import Process

# Chooses the prompts and the noise of every run, so that all runs show the same. Chosen: the date
# on which it was written.
SEED = 20260111


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


def askable(server: Process, pair: Pair, num: int) -> list[Question]:
    """Without a chat template a model of the user's completes texts."""
    questions = questions_of(pair, num)
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


def questions_of(pair: Pair, num: int) -> list[Question]:
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


def ask(
    process: Process,
    model: str,
    request: Question,
    max_tokens: int,
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
        max_tokens=max_tokens,
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


def summarise(pairs: list[Comparison]) -> dict[str, Any]:
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
