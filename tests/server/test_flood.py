"""Drafts that may come for a verdict: all that an honest edge can have, however it sends them."""

from __future__ import annotations

import random

import pytest

from wisp.core.drafts import Directive
from wisp.edge.stream import Stream
from wisp.edge.tree import Candidate
from wisp.edge.waste import Cost
from wisp.server.server_session import _MAX_WINDOWS, size

MAX_WINDOW, MAX_FORKS = 15, 4


@pytest.mark.parametrize("seed", range(20))
def test_an_edge_that_waits_long_for_a_verdict_is_no_flood(seed: int) -> None:
    chance = random.Random(seed)
    stream = Stream([1, 2, 3], 2048)
    stream.directive = Directive(window=MAX_WINDOW, threshold=0.02)
    stream.max_forks = MAX_FORKS
    num_came = num_messages = 0
    while wanted := stream.wanted():
        leaf = chance.choice(wanted)
        stream.extend(leaf, [Candidate(10, 0.9), Candidate(20, 0.9)], Cost(0.005))
        while block := stream.take_block(1):
            num_came += size(block, MAX_WINDOW)
            num_messages += 1
    assert num_messages > 2 * MAX_WINDOW  # forks came alone, too
    assert num_came <= _MAX_WINDOWS * MAX_WINDOW
