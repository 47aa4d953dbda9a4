"""Processes that have vLLM loaded when they begin.

Each engine beside that of the tests computes in processes of its own, and vLLM spawns them: each of
them loads vLLM anew, for nine seconds of a processor. Here one process loads it, and the others are
forked from that one. How they begin in production is tested with whole servers and edges.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import context
from typing import Any

import pytest

# What vLLM's workers load, and the drafter of an edge.
_LOADED = [
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.engine.core",
    "wisp.verifier.vllm.worker",
    "wisp.verifier.vllm.draft_worker",
]


class Forked(context.ForkServerProcess):
    """In the environment of who starts it, as a spawned one is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._environment = dict(os.environ)

    def run(self) -> None:
        os.environ.clear()
        os.environ.update(self._environment)
        super().run()


class _Context(context.ForkServerContext):
    Process = Forked


@contextmanager
def forked() -> Iterator[None]:
    """In place of spawned processes, as long as it lasts."""
    stock, instead = multiprocessing.get_context, _Context()
    instead.set_forkserver_preload(_LOADED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            multiprocessing,
            "get_context",
            lambda method=None: instead if method == "spawn" else stock(method),
        )
        yield
