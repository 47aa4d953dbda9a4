"""`python -m benchmarks.hostile`: what one hostile key costs twenty honest ones.

A server with both fronts runs in one process, twenty edges with a key each in a second, and the
hostile one in a third. Phases with and without it take turns; the honest goodput of both is
compared: tokens that came before a reader at the promised rate wanted them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import grpc
import httpx

from wisp import wire
from wisp.access.keys import KeyRecord, add
from wisp.config import EdgeConfig, ServerConfig, load
from wisp.core.request import Request, Sampling
from wisp.core.slo import Slo, SloChoice
from wisp.edge.link import Link
from wisp.edge.security import Security
from wisp.engine.build import policy_choice
from wisp.engine.engine import Engine
from wisp.errors import WispError
from wisp.keys_command import MAX_SESSIONS
from wisp.launch import Process
from wisp.scheduler.policy import make_policy
from wisp.server.main import serve
from wisp.testing.floor_and_slope import FloorAndSlope
from wisp.testing.local import LocalEdge, tokenizer
from wisp.testing.verifier import ScriptedVerifier
from wisp.v1 import wisp_pb2_grpc
from wisp.verifier.base import Verifier

NUM_HONEST = 20
NUM_SLOTS = 64
NEXT_TO_NOTHING = Slo(tokens_per_s=0.001, first_token_s=1)
RATE = 10.0  # tokens/s that a session of the default class is promised
STEP_S = 0.01  # of the target; chosen: twenty sessions at 10 tokens/s are far from filling it


def record(name: str) -> KeyRecord:
    """As `wisp keys add` makes it."""
    return KeyRecord(name=name, max_sessions=MAX_SESSIONS)


def build(config: ServerConfig) -> tuple[Verifier, Engine]:
    """The engine, in its own process: a step of a scripted target takes its time."""
    choice = policy_choice(config)
    verifier = ScriptedVerifier(
        vocab_size=len(tokenizer()),
        max_model_len=2**15,
        max_sessions=config.engine.max_sessions,
        on_step=lambda batch: time.sleep(STEP_S),
    )
    engine = Engine(
        verifier,
        make_policy(choice, FloorAndSlope(floor_s=STEP_S), config.speculation.max_window),
        max_window=config.speculation.max_window,
        max_ngram=config.speculation.max_ngram,
        max_forks=config.speculation.max_forks,
    )
    return verifier, engine


def server_main(flags: list[str]) -> int:
    return asyncio.run(serve(load(ServerConfig, flags, "wisp-server"), build))


class Honest:
    """One edge that asks again and again."""

    def __init__(self, key_file: Path, port: int, number: int) -> None:
        config = EdgeConfig(key_file=key_file)
        link = Link(f"127.0.0.1:{port}", security=Security(config))
        self.edge = LocalEdge(link, config, seed=number)
        self.in_time: list[tuple[float, int]] = []  # (when, tokens)
        self.errors: Counter[str] = Counter()

    async def run(self) -> None:
        sampling = Sampling(max_tokens=60, seed=self.edge.seed)
        while True:
            try:
                generation = await self.edge.backend.generate(
                    Request(prompt=[self.edge.seed, 5], sampling=sampling)
                )
                before, read_s = 0, time.monotonic()
                async for _ in generation:
                    num = generation.attainment.num_in_time
                    self.in_time.append((time.monotonic(), num - before))
                    before = num
                await generation.aclose()
                # Its reader is not done sooner than at the promised rate.
                read_s += sampling.max_tokens / RATE
                await asyncio.sleep(max(0.0, read_s - time.monotonic()))
            except WispError as error:
                self.errors[f"{type(error).__name__}: {error}"[:60]] += 1
                await asyncio.sleep(0.5)

    def between(self, start_s: float, end_s: float) -> int:
        return sum(num for when, num in self.in_time if start_s <= when < end_s)


class Hostile:
    """Everything at once, as fast as it goes."""

    def __init__(self, key: str, grpc_port: int, http_port: int, kinds: list[str]) -> None:
        self._kinds = kinds
        self._auth = f"Bearer {key}"
        self._grpc, self._http = f"127.0.0.1:{grpc_port}", http_port
        self._rng = Random(0)
        self._promises: list[SloChoice] = ["interactive", NEXT_TO_NOTHING]

    async def run(self) -> None:
        half_head = b"GET / HTTP/1.1\r\nhost: x\r\n"
        half_body = self._head(10**6) + b"x" * 900_000
        kinds = {
            "bodies": [self._bodies() for _ in range(4)],
            "heads": [self._half(half_head) for _ in range(200)],
            "halves": [self._half(half_body) for _ in range(40)],
            "sessions": [self._session() for _ in range(NUM_SLOTS)],
            "garbage": [self._garbage() for _ in range(4)],
        }
        tasks = [task for kind in self._kinds or kinds for task in kinds[kind]]
        await asyncio.gather(*tasks)

    def _head(self, length: int) -> bytes:
        return (
            f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: {self._auth}\r\n"
            f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        ).encode()

    async def _bodies(self) -> None:
        """Each would cost seconds if it were validated as it is."""
        kinds = ["1", "{}", '{"role": "user", "content": ""}', "[[[]]]", '"x"']
        url = f"http://127.0.0.1:{self._http}/v1/chat/completions"
        headers = {"authorization": self._auth, "content-type": "application/json"}
        async with httpx.AsyncClient(headers=headers, timeout=60) as client:
            while True:
                item = self._rng.choice(kinds)
                items = ",".join([item] * (10**6 // len(item)))
                with contextlib.suppress(httpx.HTTPError):
                    body = f'{{"model": "scripted", "messages": [{items}]}}'
                    await client.post(url, content=body.encode())

    async def _half(self, data: bytes) -> None:
        """A request that is never finished, again and again."""
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._http)
                writer.write(data)
                await reader.read()
                writer.close()
            await asyncio.sleep(0.2)

    async def _session(self) -> None:
        """It takes a slot at a rate of next to nothing, and reads nothing."""
        fingerprint = tokenizer().fingerprint
        async with grpc.aio.insecure_channel(self._grpc) as channel:
            stub: Any = wisp_pb2_grpc.WispStub(channel)  # type: ignore[no-untyped-call]
            while True:
                slo = self._rng.choice(self._promises)
                sampling = Sampling(max_tokens=30_000, seed=1, num_logprobs=20)
                request = Request(prompt=[1, 2], sampling=sampling, slo=slo)
                device = str(self._rng.random())
                hello = wire.Hello(tokenizer_fingerprint=fingerprint, device=device)
                call = stub.Generate(metadata=(("authorization", self._auth),))
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await call.write(wire.encode_open(request, hello))
                    await asyncio.sleep(2.0)
                    await call.read()
                    await call.wait_for_connection()
                    await asyncio.wait_for(call.code(), 20.0)
                call.cancel()
                await asyncio.sleep(0.1)

    async def _garbage(self) -> None:
        async with grpc.aio.insecure_channel(self._grpc) as channel:
            path: Any = channel.stream_stream("/wisp.v1.Wisp/Generate", bytes, bytes)
            while True:
                call = path(metadata=(("authorization", self._auth),))
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await call.write(self._rng.randbytes(2000))
                    await call.code()


def attack(key: str, grpc_port: int, http_port: int, kinds: list[str]) -> None:
    asyncio.run(Hostile(key, grpc_port, http_port, kinds).run())


async def measure(folder: Path, phase_s: float, num_phases: int, kinds: list[str]) -> None:
    context = multiprocessing.get_context("spawn")
    files = []
    for number in range(NUM_HONEST):
        path = folder / f"key-{number}"
        path.write_text(add(folder / "keys", record(f"honest-{number}")))
        files.append(path)
    key = add(folder / "keys", record("hostile"))
    flags = [f"--keys={folder / 'keys'}", f"--engine.max_sessions={NUM_SLOTS}"]
    flags += ["--http.port=0", "--grpc.port=0", "--log_level=ERROR"]
    server = await asyncio.to_thread(
        Process,
        "server",
        *flags,
        "--http.port=0",
        "--grpc.port=0",
        module="benchmarks.hostile",
        log=folder / "log",
    )
    ports = server.facts["grpc"], server.facts["http"]
    honest = [Honest(path, ports[0], number) for number, path in enumerate(files)]
    running = [asyncio.create_task(each.run()) for each in honest]
    await asyncio.sleep(5.0)
    goodput: dict[bool, list[float]] = {False: [], True: []}
    for phase in range(2 * num_phases):
        hostile = phase % 2 == 1
        if hostile:
            attacker = context.Process(target=attack, args=(key, *ports, kinds), daemon=True)
            attacker.start()
            await asyncio.sleep(3.0)
        start_s = time.monotonic()
        await asyncio.sleep(phase_s)
        end_s = time.monotonic()
        total = sum(each.between(start_s, end_s) for each in honest)
        goodput[hostile].append(total / (end_s - start_s))
        print(f"{'hostile' if hostile else 'alone'}: {goodput[hostile][-1]:.1f} tokens/s in time")
        if hostile:
            attacker.kill()
            attacker.join()
            await asyncio.sleep(2.0)
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    errors = sum((each.errors for each in honest), Counter())
    size = (folder / "log").stat().st_size
    await asyncio.to_thread(server.__exit__, None, None, None)
    ratio = statistics.median(goodput[True]) / statistics.median(goodput[False])
    print(f"goodput beside the hostile key: {ratio:.3f} of that without; errors: {dict(errors)}")
    print(f"the server's log has {size} bytes")


def main() -> None:
    if sys.argv[1:2] == ["server"]:
        sys.exit(server_main(sys.argv[2:]))
    parser = argparse.ArgumentParser("python -m benchmarks.hostile", description=__doc__)
    parser.add_argument("--phase-s", type=float, default=10.0)
    parser.add_argument("--phases", type=int, default=3)
    parser.add_argument("--kind", action="append", default=[], help="of attack; all by default")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), asked.phase_s, asked.phases, asked.kind))


if __name__ == "__main__":
    main()
