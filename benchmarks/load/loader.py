"""The predictable target on vLLM, whose weights no disk need hold: a load format of its own.

vLLM's workers, where there are several, are processes of their own. They have the environment of
the engine's process, and import its main module: there `prepare` makes of them what it is.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

from benchmarks.host_parts import HostParts, by_seats
from benchmarks.kv_log import KvLog
from benchmarks.load.own import make_doubtful, replay
from benchmarks.load.target import make_predictable
from benchmarks.step_log import StepLog
from wisp.config import ServerConfig
from wisp.engine.build import build_engine
from wisp.engine.engine import Engine
from wisp.verifier.base import Verifier

LOAD_FORMAT = "predictable"
# Set for the workers of this process alone.
_PREDICTABLE, _OWN_ACCEPTANCE = "BENCHMARKS_PREDICTABLE", "BENCHMARKS_OWN_ACCEPTANCE"


def build(
    config: ServerConfig,
    host_parts: str | None = None,
    step_log: str | None = None,
    own_acceptance: float | None = None,
) -> tuple[Verifier, Engine]:
    """As `wisp.engine.build.build_engine`; runs in the engine process, which is the one to know.

    `host_parts`: a file for what the host did between steps; None: that is not recorded.
    `step_log`: one for what each step was.
    `own_acceptance`: of the own drafts; None: as they are.
    """
    if config.engine.options.get("load_format") == LOAD_FORMAT:
        os.environ[_PREDICTABLE] = "1"
    if own_acceptance is not None:
        os.environ[_OWN_ACCEPTANCE] = str(own_acceptance)
    prepare()
    verifier, engine = build_engine(config)
    if host_parts:
        record(verifier, Path(host_parts))
    if step_log:
        log_steps(verifier, engine, Path(step_log))
    return verifier, engine


def log_steps(verifier: Verifier, engine: Engine, path: Path) -> None:
    """Write what each step was to a file as the verifier is shut down, and whose KV was where to
    kv.csv beside it."""
    log, kv, shutdown = StepLog(), KvLog(), verifier.shutdown
    log.attach(verifier, engine)
    kv.attach(verifier)

    def write_and_shut_down() -> None:
        log.write(path)
        kv.write(path.with_name("kv.csv"))
        shutdown()

    verifier.shutdown = write_and_shut_down  # type: ignore[method-assign]


def prepare() -> None:
    """Make this process's vLLM what the environment says."""
    if os.environ.get(_PREDICTABLE):
        register()
    if acceptance := os.environ.get(_OWN_ACCEPTANCE):
        make_doubtful(float(acceptance))


def record(verifier: Verifier, path: Path) -> None:
    """Write the parts of the gaps to a file as the verifier is shut down."""
    parts = HostParts()
    parts.attach(verifier)
    shutdown = verifier.shutdown

    def write_and_shut_down() -> None:
        path.write_text(json.dumps(by_seats(parts.gaps), indent=1) + "\n")
        shutdown()

    verifier.shutdown = write_and_shut_down  # type: ignore[method-assign]


@functools.cache
def register() -> None:
    """Add the load format to this process's vLLM."""
    from wisp.verifier.vllm import versions

    versions.prepare()
    from vllm.distributed import get_tensor_model_parallel_rank
    from vllm.model_executor.model_loader import DummyModelLoader, register_model_loader

    class PredictableLoader(DummyModelLoader):  # type: ignore[misc]
        def load_weights(self, model: Any, model_config: Any) -> None:
            super().load_weights(model, model_config)
            if hasattr(model, "combine_hidden_states"):  # an EAGLE-3 head
                model.has_own_lm_head = True  # as one from a disk, which knows fewer tokens
                if os.environ.get(_OWN_ACCEPTANCE):
                    replay(model, model_config.get_vocab_size())
                return
            weights = dict(model.named_parameters())
            vocab_size, rank = model_config.get_vocab_size(), get_tensor_model_parallel_rank()
            make_predictable(weights, vocab_size, rank)

    register_model_loader(LOAD_FORMAT)(PredictableLoader)
