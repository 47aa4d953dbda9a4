"""Servers, edges, their keys and their disk, all in one process; what is left over at the end."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path
from random import Random

from benchmarks.faults.disk import Disk
from benchmarks.faults.network import LOST, MemoryLink, Replica
from wisp.access.gate import Gate
from wisp.access.keys import KeyRecord, add, revoke
from wisp.config import EdgeConfig, EngineSettings, ServerConfig
from wisp.edge.link import Link
from wisp.padding import Padding
from wisp.server.servicer import WispServicer
from wisp.testing.local import LocalEdge, LocalServer

STEP_S = 0.01  # of the target; chosen: some 100 rounds a second, as a middle-sized GPU has
NUM_REPLICAS = 2
NUM_EDGES = 16
NUM_SLOTS = 6  # of each replica; chosen: fewer than its sessions, so that some are parked
WRITE_TIMEOUT_S = 30.0  # as wisp-server's
# A server whose engine hangs is started anew after this; chosen: short against the time that an
# edge looks for a server.
PATIENCE_S = 10.0
RECONNECT_S = 300.0  # chosen: no fault lasts so long, so that no text may be lost

Metadata = tuple[tuple[str, str], ...]


class Fleet:
    """Of four edges one is a liar, one pads its drafts, and one keeps what it learns.

    Files are in `folder`: keys, step times, what edges learn, and their rounds.
    """

    def __init__(self, folder: Path, rng: Random, padding: Padding | None) -> None:
        self.replicas = [Replica(f"replica {number}") for number in range(NUM_REPLICAS)]
        self.servers: dict[Replica, LocalServer] = {}
        self.edges: list[LocalEdge] = []
        self.disk = Disk()
        self._folder = folder
        self._keys = folder / "keys.yaml"
        self._rng = rng
        self._padding = padding
        self._gates: dict[Replica, Gate] = {}
        self._metadata: list[Metadata] = []
        self._num_keys = 0

    def start(self) -> None:
        for number in range(NUM_EDGES):
            self._metadata.append(self._new_key())
            link: Link = MemoryLink(
                self.replicas,
                f"edge {number}",
                Random(self._rng.random()),
                functools.partial(self._metadata.__getitem__, number),
                self._padding if number % 4 == 1 else None,
            )
            config = EdgeConfig(reconnect_s=RECONNECT_S)
            if number % 4 == 2:
                log = self._folder / f"rounds-{number}"
                config = EdgeConfig(
                    reconnect_s=RECONNECT_S, state_dir=self._folder / "edges", log_rounds=log
                )
            # A liar's drafts are wrong, and it says that they are right.
            acceptance = 0.0 if number % 4 == 3 else self._rng.uniform(0.5, 0.95)
            self.edges.append(LocalEdge(link, config, seed=number, acceptance=acceptance))
        for replica in self.replicas:
            self.begin(replica)

    def begin(self, replica: Replica) -> None:
        config = ServerConfig(
            engine=EngineSettings(max_sessions=48, num_slots=NUM_SLOTS, patience_s=PATIENCE_S)
        )
        server = self.servers[replica] = LocalServer(
            config, step_s=STEP_S, state_dir=self._folder / replica.name
        )
        gate = self._gates[replica] = Gate(self._keys)
        replica.servicer = WispServicer(
            server.service, server.telemetry, gate, WRITE_TIMEOUT_S, self._padding
        )

    async def kill(self, replica: Replica) -> None:
        """At once: nobody is told but by the connections that break."""
        server = self.servers.pop(replica, None)
        if server:
            replica.servicer = None
            for call in list(replica.calls):
                call.cut(self._rng.choice(LOST))
            await server.stop()

    def revoke(self, number: int) -> None:
        """The key of an edge. Raises ConfigError while the disk is full: then it counts still."""
        name = self._gates[self.replicas[0]].caller(self._metadata[number][0][1]).name
        revoke(self._keys, name)
        for replica, gate in self._gates.items():
            if gate.reload() and replica in self.servers:
                self.servers[replica].service.revoke(gate)

    def renew(self, number: int) -> None:
        """Another key for an edge. Raises ConfigError while the disk is full."""
        self._metadata[number] = self._new_key()

    def _new_key(self) -> Metadata:
        self._num_keys += 1
        key = add(self._keys, KeyRecord(name=f"key-{self._num_keys}"))
        for gate in self._gates.values():
            gate.reload()
        return (("authorization", f"Bearer {key}"),)

    async def stop(self) -> list[str]:
        """What is left over, once the last connections that nobody told of are found."""
        self.disk.clear()
        left = []
        for edge in self.edges:
            if edge.backend.running:
                left.append(f"{len(edge.backend.running)} generations of {edge.link.address}")
            await edge.stop()
        await asyncio.sleep(60.0)
        for replica, server in self.servers.items():
            counts = {
                "sessions of the front": server.engine.num_sessions,
                "sessions of the service": server.service.num_owned,
                "sessions of the engine": len(server.engine.engine.sessions),
                "sessions of the target": server.engine.verifier.num_open,
                "calls": len(replica.calls),
                "sessions counted": len(server.telemetry.sessions),
            }
            left += [f"{count} {what} at {replica.name}" for what, count in counts.items() if count]
            await server.stop()
        await asyncio.sleep(1.0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        left += [f"a task: {task.get_coro()}" for task in others]
        left += [f"half a file: {path}" for path in self._folder.rglob(".*")]
        return left
