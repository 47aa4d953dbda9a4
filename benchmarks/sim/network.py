"""One direction of a path: messages arrive in the order in which they were sent."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from benchmarks.sim.events import Events
from benchmarks.sim.profiles import Network


class Line:
    """When messages arrive."""

    def __init__(self, network: Network, chance: Random) -> None:
        self._network = network
        self._chance = chance
        self._last_s = 0.0  # when the last message arrives

    def arrival_s(self, sent_s: float) -> float:
        """Of the next message."""
        network, chance = self._network, self._chance
        delay_s = 0.5 * network.round_trip_s
        if network.jitter_s:
            delay_s += chance.expovariate(1.0 / network.jitter_s)
        while network.loss and chance.random() < network.loss:
            delay_s += network.resend_s
        self._last_s = max(self._last_s, sent_s + delay_s)
        return self._last_s


class Way:
    """A line in virtual time."""

    def __init__(self, events: Events, network: Network, chance: Random) -> None:
        self._events = events
        self._line = Line(network, chance)

    def send(self, what: Callable[..., None], *arguments: Any, at_s: float | None = None) -> None:
        """`what` happens at the other end. `at_s`: when it is sent, if that is not now."""
        sent_s = self._events.now if at_s is None else at_s
        self._events.at(self._line.arrival_s(sent_s), what, *arguments)
