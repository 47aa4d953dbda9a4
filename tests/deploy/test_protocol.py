"""An edge and a server of two releases understand one another: checked by buf.

`released/` holds the protocol as the last release had it; a release puts its own there.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
RELEASED = ROOT / "tests" / "deploy" / "released"
# What the bytes on the wire mean; names may be mended.
RULES = '{"version": "v2", "breaking": {"use": ["WIRE", "RPC_NO_DELETE"]}}'


def breaking(tools: Path, proto: Path) -> subprocess.CompletedProcess[str]:
    command = [str(tools / "buf"), "breaking", str(proto), "--against", str(RELEASED)]
    return subprocess.run(
        [*command, "--config", RULES, "--against-config", RULES],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_protocol_goes_on_from_the_last_release(tools: Path) -> None:
    checked = breaking(tools, ROOT / "proto")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("uint32 protocol = 1;", "string protocol = 1;"),
        ("bytes acceptance = 4;", ""),
        ("uint32 window = 1;", "uint32 window = 7;"),
        ("rpc GetModel(GetModelRequest) returns (Model);", ""),
    ],
)
def test_a_change_that_an_older_peer_would_misread_is_found(
    tools: Path, tmp_path: Path, before: str, after: str
) -> None:
    shutil.copytree(RELEASED, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "wisp" / "v1" / "wisp.proto"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    checked = breaking(tools, tmp_path)
    assert checked.returncode == 100, checked.stdout + checked.stderr  # buf's code for a breach
