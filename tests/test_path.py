"""The map of the project is true: the files that docs name exist, and imports point one way."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# What each part may know of the others; a part not named here is a leaf that anybody may import.
MAY_IMPORT = {
    "estimator": {"core"},
    "controller": {"core", "estimator"},
    "scheduler": {"core", "errors", "estimator", "controller"},
    "sampling": {"core"},
    "verifier": {"core", "errors", "models", "sampling"},
    "engine": {"core", "errors", "controller", "estimator", "scheduler", "verifier"},
    "models": {"errors"},
    "attainment": {"core"},
    "stats": set(),
    "openai": {"core", "errors", "models", "config", "attainment"},
    "edge/predictor": {"edge", "sampling"},
    "sim": {
        "attainment",
        "core",
        "edge",
        "engine",
        "errors",
        "estimator",
        "scheduler",
        "verifier",
    },
}
NEVER = [("edge", "server"), ("edge", "engine"), ("edge", "verifier"), ("server", "edge")]
NEVER += [(half, "sim") for half in ("edge", "engine", "server")]
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
    return {n.split(".")[1] for n in imported(path) if n.startswith("wisp.")}


def sources(part: str) -> list[Path]:
    folder = ROOT / "wisp" / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_files_that_a_document_names_exist(document: Path) -> None:
    named = re.findall(
        r"`((?:wisp|proto|configs|docs|benchmarks|training|tests)/[\w./-]+)`", document.read_text()
    )
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_the_core_imports_nothing_but_errors_and_lookup() -> None:
    assert parts(ROOT / "wisp" / "core.py") <= {"errors", "lookup"}
    assert parts(ROOT / "wisp" / "errors.py") == parts(ROOT / "wisp" / "lookup.py") == set()


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_point_one_way(part: str) -> None:
    for path in sources(part):
        assert parts(path) <= MAY_IMPORT[part] | {part}, path


@pytest.mark.parametrize(("one", "other"), NEVER)
def test_the_halves_do_not_know_each_other(one: str, other: str) -> None:
    for path in sources(one):
        assert other not in parts(path), path


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_has_its_rooms(library: str) -> None:
    rooms = [ROOT / "wisp" / room for room in ONLY_IN[library]]
    for path in (ROOT / "wisp").rglob("*.py"):
        if any(name.split(".")[0] == library for name in imported(path)):
            assert any(path == room or room in path.parents for room in rooms), path
