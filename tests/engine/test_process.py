"""The engine's end of the socket."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import zmq

from wisp.engine.messages import Shutdown, encode
from wisp.engine.process import Pipe


@pytest.mark.parametrize("wait_s", [None, 1e300, math.inf])
def test_a_wait_without_end_ends_with_a_message(tmp_path: Path, wait_s: float | None) -> None:
    address = f"ipc://{tmp_path / 'engine'}"
    with zmq.Context() as context, context.socket(zmq.PAIR) as front:
        front.bind(address)
        pipe = Pipe(address)
        front.send(encode(Shutdown()))
        assert pipe.receive(wait_s) == [Shutdown()]
        pipe.close()
