"""`python -m benchmarks.trust`: what TLS, a key and its quotas, or padding, cost a round.

Two streams of one server in this process, one plain and one with all of it, take rounds in turn: a
draft block goes up, its verdict comes back. Both ends' work counts. With `--padding` both are
secure, and the second is padded.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from wisp import wire
from wisp.access.gate import Gate
from wisp.access.keys import KeyRecord, add
from wisp.certs import Authority
from wisp.config import EdgeConfig, EdgeTls, Listen, SchedulingSettings, ServerConfig, ServerTls
from wisp.core.drafts import DraftBlock
from wisp.core.request import Request, Sampling
from wisp.core.slo import Slo
from wisp.edge.link import Link, Outbox
from wisp.edge.security import Security
from wisp.padding import Padding
from wisp.server.grpc_front import GrpcFront
from wisp.testing.line import Line
from wisp.testing.local import LocalServer, expected_text, tokenizer
from wisp.v1 import wisp_pb2 as pb

PROMPT = [1, 2, 3]
PATIENT = Slo(tokens_per_s=0.001, first_token_s=1000.0)  # its drafts are waited for


class Rounds:
    """One stream whose every draft is right, a token a round."""

    def __init__(self, link: Link, sampling: Sampling) -> None:
        self._text = expected_text(PROMPT, sampling)
        self._outbox: Outbox = asyncio.Queue()
        hello = wire.Hello(tokenizer_fingerprint=tokenizer().fingerprint)
        request = Request(prompt=PROMPT, sampling=sampling, slo=PATIENT)
        self._answers: AsyncGenerator[pb.ServerMessage, None] = link.generate(
            request, hello, self._outbox
        )
        self._num_known = 0
        self.link = link

    async def begin(self) -> None:
        await anext(self._answers)
        await self._verdict()

    async def round(self) -> float:
        """How long it took, in seconds."""
        known = self._num_known
        draft = [self._text[known]]
        block = DraftBlock(known + 1, len(PROMPT) + known, draft, [1.0], complete=True)
        start_s = time.perf_counter()
        self._outbox.put_nowait(block)
        await self._verdict()
        return time.perf_counter() - start_s

    async def close(self) -> None:
        await self._answers.aclose()
        await self.link.close()

    async def _verdict(self) -> None:
        message = await anext(self._answers)
        self._num_known += len(message.verdict.tokens)


async def measure(
    folder: Path, num_rounds: int, padding: Padding | None
) -> tuple[tuple[list[float], list[float]], list[float]]:
    """Times of both streams' rounds; with padding, bytes of a round on the line as well."""
    server = LocalServer(
        ServerConfig(scheduling=SchedulingSettings(policy="fcfs")),
        step_s=0.0,
        max_model_len=4 * num_rounds + 100,
    )
    authority = Authority(folder / "certs")
    cert, key = authority.issue("server", ["localhost"])
    keys, key_file = folder / "keys", folder / "key"
    record = KeyRecord(name="one", max_sessions=9, requests_per_minute=9, tokens_per_minute=10**9)
    key_file.write_text(add(keys, record))
    tls, gate = ServerTls(cert=cert, key=key), Gate(keys)
    listen = Listen(port=0)
    if padding:
        first = GrpcFront(server.service, server.telemetry, listen, tls, gate)
    else:
        first = GrpcFront(server.service, server.telemetry, listen)
    second = GrpcFront(server.service, server.telemetry, listen, tls, gate, padding=padding)
    fronts = [first, second]
    for front in fronts:
        await front.start()
    lines = [Line(front.port) for front in fronts] if padding else []
    for line in lines:
        await line.start()
    ports = [end.port for end in lines or fronts]
    config = EdgeConfig(tls=EdgeTls(ca=authority.cert_path), key_file=key_file)
    sampling = Sampling(max_tokens=3 * num_rounds, seed=1)
    streams = [
        Rounds(
            Link(f"localhost:{ports[0]}", security=Security(config) if padding else None),
            sampling,
        ),
        Rounds(Link(f"localhost:{ports[1]}", security=Security(config), padding=padding), sampling),
    ]
    for stream in streams:
        await stream.begin()
    before = [line.num_bytes for line in lines]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(num_rounds):
        for stream, found in zip(streams, times, strict=True):
            found.append(await stream.round())
    sizes = [
        (line.num_bytes - begun) / num_rounds for line, begun in zip(lines, before, strict=True)
    ]
    for stream in streams:
        await stream.close()
    for line in lines:
        await line.stop()
    for front in fronts:
        await front.stop(0)
    await server.stop()
    return times, sizes


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.trust", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3000)
    parser.add_argument("--padding", type=int, default=0, help="bytes of a message; 0: none")
    parser.add_argument("--interval-s", type=float, default=0.05)
    asked = parser.parse_args()
    padding = Padding(asked.padding, asked.interval_s) if asked.padding else None
    names = ("secure", "secure, padded") if padding else ("plain text", "TLS, key, quotas")
    with tempfile.TemporaryDirectory() as folder:
        found, sizes = asyncio.run(measure(Path(folder), asked.rounds, padding))
    differences = [1000 * (s - p) for p, s in zip(*found, strict=True)]
    for name, times in zip(names, found, strict=True):
        p95 = statistics.quantiles(times, n=20)[-1]
        print(f"{name}: median {1000 * statistics.median(times):.3f} ms, p95 {1000 * p95:.3f} ms")
    for name, size in zip(names, sizes, strict=False):
        print(f"{name}: {size:.0f} bytes a round, both ways")
    print(f"difference of neighbours: median {statistics.median(differences):.3f} ms")


if __name__ == "__main__":
    main()
