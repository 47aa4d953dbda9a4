"""The simulated server: the real engine, woken by messages and by its own clock."""

from __future__ import annotations

from typing import Protocol

from msgspec import structs

from benchmarks.sim.events import Events
from benchmarks.sim.network import Way
from benchmarks.sim.step_times import NO_HOST, Host
from wisp.core.drafts import Directive, Verdict
from wisp.engine.engine import Engine
from wisp.engine.messages import Draft, Failed, Open, ToEngine, Verdicts
from wisp.testing.clock import VirtualClock

_MIN_WAIT_S = 1e-3  # of a policy that seats nobody and yet wants to be asked again at once


class Client(Protocol):
    down: Way

    def opened(self, session_id: int, directive: Directive) -> None: ...
    def verdict(self, session_id: int, verdict: Verdict) -> None: ...
    def failed(self, failure: Failed) -> None: ...


class Server:
    """`directive`: what an edge may do before its first verdict. `host`: what it takes for
    messages and outcomes; what it takes to launch a step is the target's."""

    def __init__(
        self,
        events: Events,
        engine: Engine,
        clock: VirtualClock,
        directive: Directive,
        host: Host = NO_HOST,
    ) -> None:
        self._events = events
        self.engine = engine
        self._clock = clock
        self._directive = directive
        self._host = host
        self._inbox: list[ToEngine] = []
        self._clients: dict[int, Client] = {}
        self._num_opened = 0
        self._wake = 0  # only the latest alarm counts
        self._in_step = False

    def next_id(self) -> int:
        self._num_opened += 1
        return self._num_opened

    def open(self, opening: Open, client: Client) -> None:
        self._clients[opening.session_id] = client
        client.down.send(client.opened, opening.session_id, self._directive)
        self._receive(opening)

    def draft(self, draft: Draft) -> None:
        self._receive(structs.replace(draft, arrived_s=self._events.now))

    def _receive(self, message: ToEngine) -> None:
        self._inbox.append(message)
        if not self._in_step:
            self._turn()

    def _alarm(self, wake: int) -> None:
        if wake == self._wake:
            self._in_step = False
            self._turn()

    def _turn(self) -> None:
        """Messages that come while the target is at work wait for the next turn."""
        self._clock.now = start_s = self._events.now
        inbox, self._inbox = self._inbox, []
        self._clock.now += self._host.message_s * len(inbox)
        for message in self.engine.turn(inbox):
            if isinstance(message, Verdicts):
                host, num_seats = self._host, message.step.num_sessions
                self._clock.now += host.publish_s + host.publish_seat_s * num_seats
                for session_id, verdict in message.verdicts:
                    self._publish(session_id, verdict)
            elif isinstance(message, Failed):
                client = self._clients.pop(message.session_id)
                client.down.send(client.failed, message, at_s=self._clock.now)
        self._wake += 1
        self._in_step = self._clock.now > start_s
        if self._in_step:
            self._events.at(self._clock.now, self._alarm, self._wake)
        elif (wait_s := self.engine.wait_s()) is not None:
            self._events.at(start_s + max(_MIN_WAIT_S, wait_s), self._alarm, self._wake)

    def _publish(self, session_id: int, verdict: Verdict) -> None:
        client = self._clients[session_id]
        if verdict.finish_reason:
            del self._clients[session_id]
        client.down.send(client.verdict, session_id, verdict, at_s=self._clock.now)
