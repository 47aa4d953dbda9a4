"""What is under deploy/, checked with the real programs: `make deploy-test` sets them up.

Without them nothing here is collected.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TOOLS = os.environ.get("WISP_DEPLOY_TOOLS")
collect_ignore_glob = [] if TOOLS else ["test_*.py"]


@pytest.fixture(scope="session")
def tools() -> Path:
    """The folder with the programs of Helm, Envoy, buf and others."""
    assert TOOLS
    return Path(TOOLS) / "bin"
