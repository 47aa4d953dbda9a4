"""Three servers behind a balancer, each at an address of its own on this machine, and edges."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.waiting import PAUSE_S, TIMEOUT_S, wait_until
from wisp.certs import Authority
from wisp.config import EdgeConfig, EdgeTls
from wisp.core.request import Request, Sampling
from wisp.edge.link import Link
from wisp.edge.security import Security
from wisp.launch import Process
from wisp.testing.local import LocalEdge, expected_text

ROOT = Path(__file__).parent.parent.parent
CONFIG = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
ENVOY = ROOT / "deploy" / "envoy" / "envoy.yaml"
HTTP, GRPC = 8000, 8001  # the ports of deploy/haproxy/haproxy.cfg, of replicas and balancer alike
BACKENDS = ("grpc-sessions", "grpc-new", "http-sessions", "http-new")
Row = dict[str, str]  # of HAProxy's statistics, by their own names


class Fleet:
    """Replicas are numbered from 1."""

    def __init__(self, folder: Path) -> None:
        # Other tests on this machine have other addresses: 127.0.0.0/8 is all of it.
        self._network = f"127.{random.randint(1, 250)}.{random.randint(1, 250)}"
        self._folder = folder
        self.address, self.envoys_address = (f"{self._network}.{last}" for last in (100, 101))
        self.replicas: dict[int, Process] = {}
        self.certs = folder / "certs"
        hosts = [self.host(number) for number in range(1, 5)]
        names = [*hosts, self.address, self.envoys_address, "127.0.0.1"]
        cert, key = Authority(self.certs).issue("server", names)
        shutil.copy(key, f"{cert}.key")  # where HAProxy looks for it
        self.trust = ssl.create_default_context(cafile=str(self.certs / "ca.pem"))
        self._socket = folder / "haproxy.sock"
        self._config = Path(shutil.copy(CONFIG, folder))
        self._environment = os.environ | {
            "WISP_BIND": self.address,
            "WISP_CERTS": str(self.certs),
            "WISP_SOCKET": str(self._socket),
            **{f"WISP_REPLICA_{number}": self.host(number) for number in range(1, 5)},
        }

    @property
    def url(self) -> str:
        return f"https://{self.address}:{HTTP}"

    def host(self, number: int) -> str:
        return f"{self._network}.{number}"

    def start(self, number: int, *flags: str) -> None:
        host, server = self.host(number), self.certs / "server.pem"
        self.replicas[number] = Process(
            "server",
            f"--http.host={host}",
            f"--grpc.host={host}",
            f"--tls.cert={server}",
            f"--tls.key={server}.key",
            "--admin.port=0",
            *flags,
            log=self._folder / f"replica-{number}.log",
            module="tests.deploy.scripted",
        )

    @contextmanager
    def balanced(self) -> Iterator[None]:
        """With HAProxy in front, as soon as it has found all replicas."""
        command = ["haproxy", "-W", "-f", str(self._config)]
        with open(self._folder / "haproxy.log", "w") as log:
            self._balancer = subprocess.Popen(command, env=self._environment, stderr=log)
        try:
            ended = self._balancer.poll
            wait_until(lambda: self._socket.exists() or ended() is not None, "HAProxy listens")
            assert ended() is None, (self._folder / "haproxy.log").read_text()
            for number in self.replicas:
                self.wait_for(number, "UP")
            yield
        finally:
            self._balancer.terminate()
            self._balancer.wait()

    @contextmanager
    def balanced_by_envoy(self, program: Path) -> Iterator[None]:
        """With Envoy in front, too."""
        text = ENVOY.read_text().replace("/etc/wisp", str(self.certs))
        for own in ("0.0.0.0", "127.0.0.1"):
            text = text.replace(f"address: {own}", f"address: {self.envoys_address}")
        for number in self.replicas:
            text = text.replace(f"address: replica-{number}", f"address: {self.host(number)}")
        config = self._folder / "envoy.yaml"
        config.write_text(text)
        command = [str(program), "-c", str(config), "--log-level", "warn", "--concurrency", "1"]
        with open(self._folder / "envoy.log", "w") as log:
            envoy = subprocess.Popen([*command, "--use-dynamic-base-id"], stderr=log)
        url = f"http://{self.envoys_address}:9901/clusters"

        def serves() -> bool:
            with contextlib.suppress(httpx.TransportError):
                healthy = httpx.get(url).text.count("health_flags::healthy")
                return healthy == len(self.replicas) * len(BACKENDS)
            return False

        try:
            wait_until(serves, "Envoy has found the replicas")
            yield
        finally:
            envoy.terminate()
            envoy.wait()

    def add(self, number: int) -> None:
        """As an operator does: its lines in the configuration, and a reload."""
        lines = []
        for line in self._config.read_text().splitlines():
            lines.append(line)
            if "server replica-3" in line:
                lines.append(re.sub("(replica-|REPLICA_)3", rf"\g<1>{number}", line))
        self._config.write_text("\n".join([*lines, ""]))
        self._balancer.send_signal(signal.SIGUSR2)
        wait_until(lambda: f"replica-{number}" in self.tell("show stat"), "it is read again")

    def end(self, number: int) -> int:
        """Drain it; its exit code."""
        process = self.replicas.pop(number)
        process.terminate()
        code = process.wait()
        process.__exit__(None, None, None)
        return code

    def kill(self, number: int) -> None:
        process = self.replicas.pop(number)
        process.kill()
        process.__exit__(None, None, None)

    def stop(self) -> None:
        for number in list(self.replicas):
            self.kill(number)

    def wait_for(self, number: int, status: str) -> None:
        """As the checks of every backend found it."""
        wait_until(
            lambda: all(
                self.row(number, backend)["status"].startswith(status) for backend in BACKENDS
            ),
            f"replica {number} is {status}",
        )

    def tell(self, command: str) -> str:
        """HAProxy's answer to an operator."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            connection.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: connection.recv(2**16), b"")).decode()

    def row(self, number: int, backend: str) -> Row:
        rows = csv.DictReader(self.tell("show stat").removeprefix("# ").splitlines())
        name = f"replica-{number}"
        return next(row for row in rows if row["svname"] == name and row["pxname"] == backend)

    def num_served(self, number: int) -> float:
        """Texts that it has ended since it was started."""
        return self.metric(number, "wisp_sessions_ended_total")

    def metric(self, number: int, name: str) -> float:
        """The sum over its labels."""
        port = self.replicas[number].facts["admin"]
        text = httpx.get(f"https://127.0.0.1:{port}/metrics", verify=self.trust).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if _name(line) == name)

    def link(self, address: str | None = None) -> Link:
        config = EdgeConfig(tls=EdgeTls(ca=self.certs / "ca.pem"))
        return Link(f"{address or self.address}:{GRPC}", security=Security(config))


def _name(line: str) -> str:
    """Of the metric."""
    return line.partition(" ")[0].partition("{")[0]


class Load:
    """Edges that ask for one text after another, and compare each with what the target writes."""

    def __init__(self, fleet: Fleet, num_edges: int) -> None:
        self.num_right = 0
        self.wrong: list[str] = []
        self._edges = [
            LocalEdge(fleet.link(), EdgeConfig(reconnect_s=120.0), seed=seed)
            for seed in range(num_edges)
        ]
        self._tasks = [asyncio.create_task(self._ask(edge)) for edge in self._edges]
        self._stopping = False

    @property
    def num_resumes(self) -> float:
        values = (
            edge.metrics.registry.get_sample_value("wisp_edge_reconnects_total")
            for edge in self._edges
        )
        return sum(value or 0.0 for value in values)

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """While the edges go on. Fails the test when an edge fails."""
        async with asyncio.timeout(TIMEOUT_S):
            while not await asyncio.to_thread(holds):
                assert not self.wrong, what
                await asyncio.sleep(4 * PAUSE_S)

    async def more(self, count: int) -> None:
        aim = self.num_right + count
        await self.until(lambda: self.num_right >= aim, f"{count} more texts")

    async def stop(self) -> None:
        """When each edge has its last text."""
        self._stopping = True
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.gather(*self._tasks)
        for edge in self._edges:
            await edge.stop()

    async def _ask(self, edge: LocalEdge) -> None:
        dice = random.Random(edge.seed)
        while not self._stopping:
            prompt = [dice.randrange(4096) for _ in range(8)]
            sampling = Sampling(max_tokens=dice.randint(40, 120), seed=edge.seed)
            tokens = await text_of(edge, prompt, sampling)
            if tokens == expected_text(prompt, sampling):
                self.num_right += 1
            else:
                self.wrong.append(f"edge {edge.seed}: {prompt} gave {tokens}")


async def text_of(
    edge: LocalEdge, prompt: list[int], sampling: Sampling, conversation: str = ""
) -> list[int]:
    request = Request(prompt=prompt, sampling=sampling, conversation=conversation)
    generation = await edge.backend.generate(request)
    tokens: list[int] = []
    async for verdict in generation:
        tokens += verdict.tokens
    await generation.aclose()
    return tokens
