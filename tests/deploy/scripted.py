"""wisp-server, but for a target without a model, whose text is known in advance.

python -m tests.deploy.scripted server [wisp-server's flags]
"""

from __future__ import annotations

import asyncio
import sys
import time

from wisp.config import ServerConfig, load
from wisp.core.batch import Batch
from wisp.engine.build import policy_choice
from wisp.engine.engine import Engine
from wisp.logs import log_to_stderr
from wisp.scheduler.policy import make_policy
from wisp.server.main import serve
from wisp.testing.floor_and_slope import FloorAndSlope
from wisp.testing.verifier import ScriptedVerifier
from wisp.verifier.base import Verifier

VOCAB_SIZE = 4096  # of the bundled pair's tokenizer, see tests/deploy/test_balancers.py
STEP_S = 0.02  # of every step; chosen: texts go on for seconds, so that what happens meets them


def build(config: ServerConfig) -> tuple[Verifier, Engine]:
    verifier = ScriptedVerifier(
        vocab_size=VOCAB_SIZE, max_sessions=config.engine.max_sessions, on_step=_take_time
    )
    choice = policy_choice(config)
    policy = make_policy(choice, FloorAndSlope(floor_s=STEP_S), config.speculation.max_window)
    return verifier, Engine(
        verifier,
        policy,
        max_window=config.speculation.max_window,
        max_forks=config.speculation.max_forks,
        max_ngram=config.speculation.max_ngram,
    )


def _take_time(batch: Batch) -> None:
    time.sleep(STEP_S)


if __name__ == "__main__":
    config = load(ServerConfig, sys.argv[2:], "wisp-server")
    log_to_stderr(config.log_level)
    sys.exit(asyncio.run(serve(config, build)))
