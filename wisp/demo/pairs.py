"""The pairs of target and drafter that WISP brings, with questions to try them on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wisp.config import SMOLLM2, TINY
from wisp.errors import ConfigError, Unavailable
from wisp.models.public.catalogue import find
from wisp.models_command import get_with_progress

PairName = Literal["smollm2", "tiny"]

# Prompt and answer in the demo; chosen: short answers, and a cache that no machine lacks room for.
_MAX_MODEL_LEN = 2048
# Of the target, as many as there are cores up to this. Chosen: the two cores of a small machine, on
# which the demo is measured; a step gains little by more.
_MAX_THREADS = 2


@dataclass(frozen=True)
class Pair:
    """`name` is what `wisp demo --json` calls it."""

    name: str
    target: Path
    draft: Path
    prompts: tuple[dict[str, str], ...]  # each with its `kind`, text or another for chat
    server_flags: tuple[str, ...] = ()


def tiny() -> Pair:
    return Pair("tiny", TINY / "target", TINY / "draft", _prompts(TINY))


def find_pair(name: PairName, say: Callable[[str], None]) -> Pair:
    """The pair of that name, or the tiny one, with a word about it, if its target cannot be had."""
    if name == "tiny":
        return tiny()
    try:
        target = get_with_progress(find("smollm2"))
    except (Unavailable, ConfigError) as error:
        say(f"{error}: showing the tiny pair instead")
        return tiny()
    flags = (
        f"--engine.max_model_len={_MAX_MODEL_LEN}",
        "--engine.max_sessions=4",
        f"--engine.num_threads={min(_MAX_THREADS, os.cpu_count() or 1)}",
    )
    return Pair("smollm2", target, SMOLLM2, _prompts(SMOLLM2), flags)


def _prompts(folder: Path) -> tuple[dict[str, str], ...]:
    return tuple(json.loads((folder / "prompts.json").read_text()))
