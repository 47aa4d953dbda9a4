"""The map of the project is true: imports point one way."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What each part may know of the others: arrows point down this list, and nothing imports upward.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "tls": {"errors"},
    "certs": {"errors", "files"},
    "certs_command": {"certs"},
    "logs": set(),
    "metrics": set(),
    "core": {"errors"},
    "stats": {"core"},
    "status": {"errors"},
    "tasks": set(),
    "launch": {"errors"},
    "models": {"errors"},
    "estimator": {"core", "files"},
    "sampling": {"core"},
    "wire": {"core", "errors"},
    "access": {"core", "errors", "files", "tls"},
    "keys_command": {"access", "errors"},
    "scheduler": {"core", "estimator"},
    "flags": {"errors"},
    "config": {"errors", "flags", "logs", "scheduler"},
    "padding": {"config"},
    "tracing": {"config"},
    "verifier": {"core", "errors", "models", "sampling"},
    "openai": {"access", "config", "core", "errors", "logs", "models", "tasks", "tls", "tracing"},
    "engine": {"config", "core", "errors", "estimator", "files", "scheduler", "tasks", "verifier"},
    "edge": {
        "access",
        "config",
        "core",
        "errors",
        "files",
        "launch",
        "logs",
        "metrics",
        "models",
        "openai",
        "padding",
        "sampling",
        "status",
        "tasks",
        "tls",
        "tracing",
        "verifier",
        "wire",
    },
    "server": {
        "access",
        "config",
        "core",
        "engine",
        "errors",
        "estimator",
        "launch",
        "logs",
        "metrics",
        "models",
        "openai",
        "padding",
        "scheduler",
        "stats",
        "status",
        "tasks",
        "tls",
        "tracing",
        "verifier",
        "wire",
    },
    "testing": {
        "config",
        "core",
        "edge",
        "engine",
        "errors",
        "estimator",
        "metrics",
        "models",
        "openai",
        "sampling",
        "scheduler",
        "server",
        "tasks",
        "verifier",
    },
    "models_command": {"models"},
    "chat": {"config", "errors"},
    "demo": {"access", "certs", "config", "errors", "launch", "models", "models_command"},
    "top": {"config", "errors", "stats"},
    "shell_completion": {"config"},
    "cli": {
        "certs_command",
        "chat",
        "config",
        "demo",
        "edge",
        "errors",
        "files",
        "flags",
        "keys_command",
        "launch",
        "logs",
        "models_command",
        "server",
        "shell_completion",
        "top",
        "tracing",
    },
}
GENERATED = {"v1", "__version__"}
ONLY_IN = {
    "transformers": {"models", "verifier/torch.py", "edge/drafter/transformers.py"},
    "vllm": {"verifier/vllm"},
    "grpc": {"server", "edge", "v1", "status.py"},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def parts(path: Path) -> set[str]:
    """The parts of wisp that a file imports."""
    return {n.split(".")[1] for n in imported(path) if n.startswith("wisp.")} - GENERATED


def sources(part: str) -> list[Path]:
    folder = ROOT / "wisp" / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def test_every_part_is_on_the_map() -> None:
    found = {path.stem for path in (ROOT / "wisp").iterdir() if path.suffix in ("", ".py")}
    assert found - {"__init__", "__pycache__", "v1"} == set(MAY_IMPORT)


def test_arrows_point_down_the_map() -> None:
    above: set[str] = set()
    for part, known in MAY_IMPORT.items():
        assert known <= above, part
        above.add(part)


def test_the_document_draws_the_same_map() -> None:
    """In its table of rooms each stands below all that it imports; the commands share a row."""
    document = (ROOT / "docs" / "architecture.md").read_text()
    rows = document[document.index("| room |") :].partition("\n\n")[0].splitlines()
    found = [re.findall(r"`wisp/(\w+)(?:/|\.py)`", row.split(" | ")[0]) for row in rows]
    row_of = {room: number for number, rooms in enumerate(found) for room in rooms}
    assert row_of.keys() == MAY_IMPORT.keys()
    for room, known in MAY_IMPORT.items():
        assert all(row_of[other] <= row_of[room] for other in known), room


def test_the_engine_process_loads_no_front() -> None:
    """What it loads is in its memory and in its start, and a front may break it."""
    program = "import sys, wisp.engine.build, wisp.engine.process; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    modules = loaded.stdout.decode().split()
    fronts = {"fastapi", "grpc", "httpx", "openai", "prometheus_client", "starlette", "uvicorn"}
    assert not fronts & set(modules)
    rooms = {"wisp.edge", "wisp.openai", "wisp.server"}
    assert not [name for name in modules if ".".join(name.split(".")[:2]) in rooms]


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_point_one_way(part: str) -> None:
    for path in sources(part):
        assert parts(path) <= MAY_IMPORT[part] | {part}, path


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_has_its_rooms(library: str) -> None:
    rooms = [ROOT / "wisp" / room for room in ONLY_IN[library]]
    for path in (ROOT / "wisp").rglob("*.py"):
        if any(name.split(".")[0] == library for name in imported(path)):
            assert any(path == room or room in path.parents for room in rooms), path
