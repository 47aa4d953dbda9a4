"""The hashed pins are those of constraints.txt, for the images, too."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def pins(name: str) -> set[tuple[str, str]]:
    found = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE)
    return {(re.sub(r"[-_.]+", "-", package).lower(), version) for package, version in found}


def test_the_hashed_pins_are_the_pins() -> None:
    """`make hashes` after a change of constraints.txt."""
    assert pins("constraints-hashed.txt") == pins("constraints.txt")


def test_an_image_has_the_same_pins() -> None:
    """`make hashes`, also after a change of the dependencies in pyproject.toml."""
    image = pins("constraints-image.txt")
    assert image < pins("constraints.txt")
    names = {name for name, _ in image}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {re.split(r"[^\w.-]", line)[0].lower() for line in project["dependencies"]}
    assert asked <= names
    assert not names & {"torch", "llama-cpp-python"}


@pytest.mark.parametrize("name", ["constraints-hashed.txt", "constraints-image.txt"])
def test_every_pin_has_a_hash(name: str) -> None:
    text = (ROOT / name).read_text()
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert blocks
    assert all("--hash=sha256:" in block for block in blocks)
