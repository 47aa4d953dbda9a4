"""Folders that the Makefile names are targets of make, too: a name with `=` would be a variable."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")
@pytest.mark.parametrize("target", ["test-vllm", "test-llama", "deploy-test"])
def test_what_is_set_up_once_is_made_on_a_new_machine(target: str, tmp_path: Path) -> None:
    """A make that is given no target would begin with the first one: the demo."""
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    (tmp_path / "wisp").mkdir()  # in a dry run it is not made, but the lock in it is taken
    command = ["make", "--dry-run", f"READY={tmp_path / 'ready'}", "RUN=run", target]
    shown = subprocess.run(
        command,
        cwd=ROOT,
        env=environment | {"XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "wisp.cli demo" not in shown
    assert re.search(rf"touch {re.escape(str(tmp_path))}/wisp/\S+/\.ready", shown)
