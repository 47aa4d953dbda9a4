"""Queries to Prometheus: they parse, and they ask for metrics that there are."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import yaml

WISP = Path(__file__).parent.parent.parent / "wisp"
METRICS = [WISP / "metrics.py", WISP / "server" / "server_metrics.py"]


def check_queries(queries: Iterable[str]) -> None:
    """By promtool, and against the names of both halves' metrics."""
    known = {name for each in METRICS for name in re.findall(r'"(wisp_[a-z_]+)"', each.read_text())}
    rules = [{"record": f"query_{i}", "expr": query} for i, query in enumerate(queries)]
    for rule in rules:
        for name in re.findall(r"\bwisp_\w+", rule["expr"]):
            assert re.sub("_(bucket|sum|count)$", "", name) in known, name
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}, file)
        file.flush()
        command = ["promtool", "check", "rules", file.name]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
