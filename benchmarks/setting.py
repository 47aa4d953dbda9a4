"""What a figure depends on, printed beside it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from typing import Any

import torch
import transformers

from wisp import __version__


def setting(seed: int, **more: Any) -> dict[str, Any]:
    return {
        "wisp": __version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "seed": seed,
        **more,
    }


def tell(about: dict[str, Any], rows: Iterable[dict[str, Any]], *, as_json: bool) -> None:
    """Print what was found: one JSON object, or a line for each row."""
    if as_json:
        print(json.dumps(about | {"rows": list(rows)}))
        return
    print(describe(about))
    for row in rows:
        print(describe(row))


def describe(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
