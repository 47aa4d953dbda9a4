"""wisp edge-bench: what this device drafts, as JSON for the simulator and for sizing."""

from __future__ import annotations

import json
import platform
import random
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from wisp.config import EdgeConfig, load
from wisp.core.request import Sampling
from wisp.edge.drafter.base import Drafter, DraftJob
from wisp.edge.drafter.load import load_drafter, load_tokenizer
from wisp.edge.power import FEEL_S, temperature
from wisp.errors import ConfigError

# Chosen: prompts of one screen, after which drafting is timed, and steps enough for a median.
_PROMPT, _STEPS = 256, 24
# Users who are drafted for at once, unless told; chosen: what one device's applications ask for.
_USERS = (1, 2, 4)
# A step in a long run is timed over so many tokens; chosen: then the clock costs nothing.
_BURST = 32


Look = dict[str, float | None]  # what is seen every ten seconds


class BenchConfig(EdgeConfig):
    """wisp edge-bench: what this device drafts, with the settings of wisp-edge."""

    seconds: float = Field(0.0, ge=0, description="draft on for so long, to see it warm up")
    users: list[Annotated[int, Field(ge=1)]] | None = Field(
        None,
        description="users drafted for at once, e.g. 1,8,32; null: 1, 2 and 4, if there may be",
    )
    temperatures: list[Annotated[float, Field(ge=0, le=2)]] = Field(
        [0.0], min_length=1, description="of the target's choices, e.g. 0,0.7"
    )


def run(arguments: Sequence[str]) -> int:
    """Print one JSON object; the exit code. Raises ConfigError if the drafter cannot be loaded."""
    config = load(BenchConfig, arguments, "wisp edge-bench")
    most = config.drafter.max_sessions
    if too_many := [number for number in config.users or () if number > most]:
        raise ConfigError(
            f"{too_many[0]} users are more than drafter.max_sessions, {most}: set it higher"
        )
    before = _memory_mib()
    drafter = load_drafter(config, load_tokenizer(config))
    loaded = _memory_mib()
    print(json.dumps(measure(drafter, config, loaded - before), indent=1))
    return 0


def measure(drafter: Drafter, config: BenchConfig, memory_mib: float) -> dict[str, Any]:
    """Times are wall times of this process: nothing else should run on the device."""
    rng = random.Random(0)
    prompt = _prompt(drafter, rng)
    start_s = time.perf_counter()
    drafter.open(0)
    drafter.step([DraftJob(0, prompt)])
    prefill_s = time.perf_counter() - start_s
    drafter.close(0)
    users = config.users or [n for n in _USERS if n <= config.drafter.max_sessions]
    together = [
        _together(drafter, number, temperature, rng)
        for temperature in config.temperatures
        for number in users
    ]
    first = config.temperatures[0]
    batches = {e["users"]: e["step_s"] for e in together if e["temperature"] == first}
    return {
        "device": platform.machine(),
        "draft": config.draft.name,
        "engine": type(drafter).__name__,
        "num_threads": getattr(drafter, "num_threads", config.drafter.num_threads),
        "tokens_per_s": 1 / batches[min(batches)],
        "prefill_tokens_per_s": len(prompt) / prefill_s,
        "step_s_by_batch": batches,
        "users": together,
        "memory_mib": memory_mib,
        "over_time": list(_over_time(drafter, prompt, config.seconds)),
    }


def _prompt(drafter: Drafter, rng: random.Random) -> list[int]:
    limit = min(drafter.vocab_size, 1000)  # ids that every tokenizer has
    return [rng.randrange(limit) for _ in range(min(_PROMPT, drafter.max_model_len // 2))]


def _together(
    drafter: Drafter, number: int, temperature: float, rng: random.Random
) -> dict[str, float]:
    """So many users, each with a prompt of their own: a step drafts one token for each of them."""
    texts = {key: _prompt(drafter, rng) for key in range(number)}
    samplings = {
        key: Sampling(max_tokens=_STEPS, temperature=temperature, seed=rng.getrandbits(64))
        for key in texts
    }

    def step() -> float:
        start_s = time.perf_counter()
        jobs = [DraftJob(key, tokens, samplings[key]) for key, tokens in texts.items()]
        proposals = drafter.step(jobs)
        taken_s = time.perf_counter() - start_s
        for tokens, proposal in zip(texts.values(), proposals, strict=True):
            tokens.append(proposal.token)
        return taken_s

    for key in texts:
        drafter.open(key)
    prompts_s = step()
    step_s = statistics.median(step() for _ in range(_STEPS))
    for key in texts:
        drafter.close(key)
    return {
        "users": number,
        "temperature": temperature,
        "step_s": step_s,
        "tokens_per_s_each": 1 / step_s,
        "tokens_per_s": number / step_s,
        "prompts_s": prompts_s,
    }


def _over_time(drafter: Drafter, prompt: list[int], seconds: float) -> list[Look]:
    """Speed and temperature every ten seconds while it drafts without a pause."""
    found: list[Look] = []
    begun_s = time.perf_counter()
    drafter.open(0)
    while (elapsed_s := time.perf_counter() - begun_s) < seconds:
        count, until_s = 0, min(elapsed_s + FEEL_S, seconds)
        while time.perf_counter() - begun_s < until_s:
            tokens = list(prompt)
            for _ in range(_BURST):
                tokens.append(drafter.step([DraftJob(0, tokens)])[0].token)
            count += _BURST
        taken_s = time.perf_counter() - begun_s - elapsed_s
        found.append({"at_s": elapsed_s, "tokens_per_s": count / taken_s, "celsius": temperature()})
    drafter.close(0)
    return found


def _memory_mib() -> float:
    """The most memory that this process had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
