"""The process of a drafter, with its body played by the test."""

from __future__ import annotations

import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from wisp.edge.drafter import draft_process
from wisp.edge.drafter.draft_process import DraftProcess, DraftSettings
from wisp.errors import ConfigError

SETTINGS = DraftSettings(
    Path("nowhere"),
    max_slots=1,
    max_model_len=None,
    memory_share=0.5,
    dtype=None,
    device="cpu",
)


def fail_and_stay(pipe: Connection, settings: DraftSettings) -> None:
    """As an engine that cannot start, and whose threads keep its process from ending."""
    # The process' own message: nobody else makes any.
    pipe.send(draft_process._Failed("the card has no memory left"))
    while True:
        signal.pause()


def test_an_engine_that_cannot_start_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft_process, "_run", fail_and_stay)
    with pytest.raises(ConfigError, match="the card has no memory left"):
        DraftProcess(SETTINGS)
