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
from typing import Any

from pydantic import Field

from wisp.config import EdgeConfig, load
from wisp.edge.drafter.base import Drafter, DraftJob
from wisp.edge.drafter.load import load_drafter, load_tokenizer
from wisp.edge.power import FEEL_S, temperature

# Chosen: prompts of one screen, after which drafting is timed, and steps enough for a median.
_PROMPT, _STEPS = 256, 24
_BATCHES = (1, 2, 4)  # sequences in a step; chosen: what one device's applications ask for
# A step in a long run is timed over so many tokens; chosen: then the clock costs nothing.
_BURST = 32


Look = dict[str, float | None]  # what is seen every ten seconds


class BenchConfig(EdgeConfig):
    """wisp edge-bench: what this device drafts, with the settings of wisp-edge."""

    seconds: float = Field(0.0, ge=0, description="draft on for so long, to see it warm up")


def run(arguments: Sequence[str]) -> int:
    """Print one JSON object; the exit code. Raises ConfigError if the drafter cannot be loaded."""
    config = load(BenchConfig, arguments, "wisp edge-bench")
    before = _memory_mib()
    drafter = load_drafter(config, load_tokenizer(config))
    loaded = _memory_mib()
    print(json.dumps(measure(drafter, config, loaded - before), indent=1))
    return 0


def measure(drafter: Drafter, config: BenchConfig, memory_mib: float) -> dict[str, Any]:
    """Times are wall times of this process: nothing else should run on the device."""
    rng = random.Random(0)
    limit = min(drafter.vocab_size, 1000)  # ids that every tokenizer has
    prompt = [rng.randrange(limit) for _ in range(min(_PROMPT, drafter.max_model_len // 2))]
    start_s = time.perf_counter()
    drafter.open(0)
    drafter.step([DraftJob(0, prompt)])
    prefill_s = time.perf_counter() - start_s
    drafter.close(0)
    batches = {
        size: _step_s(drafter, prompt, size)
        for size in _BATCHES
        if size <= config.drafter.max_sessions
    }
    return {
        "device": platform.machine(),
        "draft": config.draft.name,
        "num_threads": getattr(drafter, "num_threads", config.drafter.num_threads),
        "tokens_per_s": 1 / batches[1],
        "prefill_tokens_per_s": len(prompt) / prefill_s,
        "step_s_by_batch": batches,
        "memory_mib": memory_mib,
        "over_time": list(_over_time(drafter, prompt, config.seconds)),
    }


def _step_s(drafter: Drafter, prompt: list[int], size: int) -> float:
    """Median time of a step of one token for each of `size` sequences."""
    texts = {key: list(prompt) for key in range(size)}
    for key in texts:
        drafter.open(key)
    drafter.step([DraftJob(key, tokens) for key, tokens in texts.items()])
    times = []
    for _ in range(_STEPS):
        start_s = time.perf_counter()
        proposals = drafter.step([DraftJob(key, tokens) for key, tokens in texts.items()])
        times.append(time.perf_counter() - start_s)
        for tokens, proposal in zip(texts.values(), proposals, strict=True):
            tokens.append(proposal.token)
    for key in texts:
        drafter.close(key)
    return statistics.median(times)


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
