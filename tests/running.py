"""What tests of real processes ask of them, and how they hold them."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI

from tests.waiting import wait_until
from wisp.launch import Process

CHAT = [{"role": "user", "content": "Write the function shutil.copyfile."}]
PROMPT = "def test_"
MODEL = "target"
ENDLESS = {"logit_bias": {"0": -100, "2": -100}}  # it ends at max_tokens alone
LONG = {"max_tokens": 1900, **ENDLESS}  # as long as there is room in the context


def client(process: Process) -> Any:
    return OpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=0)


def sampling(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 24, "seed": 11, "temperature": 0.8, **more}


def metric(process: Process, name: str) -> float:
    text = httpx.get(f"{process.url}/metrics").text
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found, f"no metric {name}"
    return float(found[1])


def wait_for_sessions(server: Process, count: int) -> None:
    wait_until(lambda: metric(server, "wisp_sessions") == count, f"it has {count} sessions")


@contextmanager
def held(server: Process) -> Iterator[None]:
    """Its engine stands still: no session ends by itself, however slow the test is."""
    (engine,) = children(server.pid)
    os.kill(engine, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(engine, signal.SIGCONT)


def children(pid: int) -> list[int]:
    """The engine process among the server's children (multiprocessing has a tracker as well)."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(c) for c in listed if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
