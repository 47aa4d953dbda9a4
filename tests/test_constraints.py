"""The hashed pins are those of constraints.txt."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def pins(name: str) -> set[tuple[str, str]]:
    found = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE)
    return {(re.sub(r"[-_.]+", "-", package).lower(), version) for package, version in found}


def test_the_hashed_pins_are_the_pins() -> None:
    """`make hashes` after a change of constraints.txt."""
    assert pins("constraints-hashed.txt") == pins("constraints.txt")


def test_every_pin_has_a_hash() -> None:
    text = (ROOT / "constraints-hashed.txt").read_text()
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert blocks
    assert all("--hash=sha256:" in block for block in blocks)
