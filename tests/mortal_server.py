"""wisp-server, but for an engine that is killed in the midst of copying KV.

    python -m tests.mortal_server server --dies-in=save [wisp-server's flags]

`save` and `restore` copy a session's KV to host memory and back, layer by layer. The sixth such
copy ends behind its first layer, as if the machine had lost its power.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from wisp.config import ServerConfig, load
from wisp.engine.build import build_engine
from wisp.engine.engine import Engine
from wisp.models.attention import SlotCache
from wisp.server.main import serve
from wisp.verifier.base import Verifier

_DIES_IN = "--dies-in="
_NUM_COPIES = 6  # chosen: every session has come and gone by then


def build(config: ServerConfig, dies_in: str) -> tuple[Verifier, Engine]:
    """Runs in the engine process."""
    work, left = getattr(SlotCache, dies_in), _NUM_COPIES

    def copy(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left > 0:
            return work(*arguments)
        with Halfway():
            return work(*arguments)

    setattr(SlotCache, dies_in, copy)
    return build_engine(config)


class Halfway(TorchFunctionMode):
    """The process is killed as the second layer is to be copied: each has keys and values."""

    num_copied = 0

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is Tensor.to:
            self.num_copied += 1
            if self.num_copied > 2:
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **(kwargs or {}))


def main() -> int:
    (dies_in,) = [f.removeprefix(_DIES_IN) for f in sys.argv if f.startswith(_DIES_IN)]
    flags = [flag for flag in sys.argv[2:] if not flag.startswith(_DIES_IN)]
    config = load(ServerConfig, flags, "wisp-server")
    return asyncio.run(serve(config, functools.partial(build, dies_in=dies_in)))


if __name__ == "__main__":
    sys.exit(main())
