"""wisp profile: load the target, measure what its steps take, keep it for the server's start."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from wisp.config import ProfileConfig
from wisp.engine.build import build_verifier, estimator_key
from wisp.engine.profiling import GPU_BUDGET_S, profile
from wisp.errors import ConfigError
from wisp.estimator.fit import Observation
from wisp.estimator.shape import StepShape
from wisp.estimator.step_time import StepTimeEstimator, held_out
from wisp.estimator.store import Key, save
from wisp.verifier.base import Verifier

# How long a profile measures on a CPU. Chosen: who asks for one waits longer than the two seconds
# that a server's start takes for it.
_CPU_BUDGET_S = 10.0
# The draft tokens of each session in the second column of the table. Chosen: the default
# `block_tokens` of speculation, so the column is a usual step.
_NUM_DRAFTS = 4
# The tokens of context whose time is told: chosen as a round number that a reader can multiply.
_CONTEXT = 1000


def run(config: ProfileConfig) -> int:
    """Raises ConfigError if the target cannot be loaded or measured, or the result not be kept."""
    console = Console(stderr=config.as_json)
    with console.status("loading the target"):
        verifier = build_verifier(config)
    try:
        key = estimator_key(config, verifier.facts)
        start_s = time.perf_counter()
        observations = _measure(config, verifier, console)
        spent_s = time.perf_counter() - start_s
    finally:
        verifier.shutdown()
    if not observations:
        raise ConfigError("no step could be measured: the context is too short, or the time")
    estimator = StepTimeEstimator()
    estimator.fit(observations)
    path = _save(config, estimator, key)
    summary = {
        "model": key.model,
        "device": key.gpu,
        "engine": key.engine,
        "num_steps": len(observations),
        "time_s": round(spent_s, 1),
        **_describe(estimator, observations, config.scheduling.max_step_tokens),
        "saved": str(path) if path else None,
    }
    if config.as_json:
        print(json.dumps(summary))
    else:
        _print(console, summary)
    return 0


def _measure(config: ProfileConfig, verifier: Verifier, console: Console) -> list[Observation]:
    budget_s = config.estimator.profile_s
    if budget_s is None:
        budget_s = GPU_BUDGET_S if verifier.facts.on_gpu else _CPU_BUDGET_S
    count = TextColumn("{task.fields[steps]} steps")
    columns = TextColumn("profiling"), BarColumn(), count, TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("profiling", total=1.0, steps=0)
        return profile(
            verifier,
            max_step_tokens=config.scheduling.max_step_tokens,
            max_window=config.speculation.max_window,
            budget_s=budget_s,
            progress=lambda share, steps: bar.update(task, completed=share, steps=steps),
        )


def _save(config: ProfileConfig, estimator: StepTimeEstimator, key: Key) -> Path | None:
    folder = config.estimator.state_dir
    if folder is None:
        return None
    try:
        return save(estimator, folder, key)
    except OSError as error:
        raise ConfigError(f"the profile cannot be saved in {folder}: {error}") from error


def _describe(
    estimator: StepTimeEstimator, observations: Sequence[Observation], max_tokens: int
) -> dict[str, Any]:
    """Times in ms. Tokens and seats are varied one at a time, without context."""

    def ms(tokens: int, seats: int, context: int = 0) -> float:
        return 1e3 * estimator.predict_s(StepShape(tokens, context, 0.0, seats))

    powers = range((max_tokens - 1).bit_length())
    sizes = [*(2**power for power in powers), max_tokens]
    residuals = np.array(held_out(observations))
    return {
        "floor_ms": ms(1, 1),
        "token_ms": (ms(max_tokens, 1) - ms(1, 1)) / max(1, max_tokens - 1),
        "session_ms": ms(2, 2) - ms(2, 1) if max_tokens > 1 else 0.0,
        "context_ms": ms(1, 1, _CONTEXT) - ms(1, 1),
        "upper_margin": estimator.margin,
        "mape_held_out": 100.0 * float(np.abs(residuals).mean()) if len(residuals) else None,
        "table": [
            {
                "tokens": size,
                "plain_ms": ms(size, size),
                "drafted_ms": ms(size, -(-size // (1 + _NUM_DRAFTS))),
            }
            for size in sizes
        ],
    }


def _print(console: Console, summary: dict[str, Any]) -> None:
    table = Table(title=f"Steps of {summary['model']} on {summary['device']}, {summary['engine']}")
    upper = 1.0 + summary["upper_margin"]
    columns = "tokens", "1 a session", "95 % bound", f"{1 + _NUM_DRAFTS} a session", "95 % bound"
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in summary["table"]:
        times_ms = [row["plain_ms"], row["drafted_ms"]]
        cells = [f"{time_ms * factor:.2f} ms" for time_ms in times_ms for factor in (1.0, upper)]
        table.add_row(str(row["tokens"]), *cells)
    console.print(table)
    error = summary["mape_held_out"]
    console.print(
        f"floor {summary['floor_ms']:.2f} ms, {1e3 * summary['token_ms']:.0f} us a token, "
        f"{1e3 * summary['session_ms']:.0f} us a session, "
        f"{1e3 * summary['context_ms']:.0f} us for {_CONTEXT} tokens of context"
    )
    console.print(
        f"{summary['num_steps']} steps in {summary['time_s']} s, upper margin "
        f"{summary['upper_margin']:.0%}, mean error on shapes held out "
        + ("unknown" if error is None else f"{error:.1f} %")
    )
    if summary["saved"]:
        console.print(f"saved in {summary['saved']}", soft_wrap=True)
