"""`python -m benchmarks.hostile`: what one hostile key costs twenty honest ones.

A server with both fronts runs in one process, twenty edges with a key each in a second, and the
hostile one in a third. Phases with and without it take turns; the honest goodput of both is
compared: tokens that came before a reader at the promised rate wanted them.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from msgspec import structs

from benchmarks.attack import attack
from wisp.access.keys import KeyRecord, add
from wisp.config import EdgeConfig, ServerConfig, load
from wisp.core.request import Request, Sampling
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
from wisp.verifier.base import Verifier

NUM_HONEST = 20
NUM_SLOTS = 64
RATE = 10.0  # tokens/s that a session of the default class is promised
NUM_TOKENS = 60  # of an honest text; chosen: a few seconds of reading
STEP_S = 0.01  # of the target; chosen: twenty sessions at 10 tokens/s are far from filling it


def record(name: str, max_sessions: int = MAX_SESSIONS) -> KeyRecord:
    """As `wisp keys add` makes it; 0: no limit."""
    return KeyRecord(name=name, max_sessions=max_sessions or None)


def build(config: ServerConfig) -> tuple[Verifier, Engine]:
    """The engine, in its own process: a step of a scripted target takes its time."""
    choice = policy_choice(config)
    verifier = ScriptedVerifier(
        vocab_size=len(tokenizer()),
        max_model_len=2**15,
        max_sessions=config.engine.max_sessions,
        on_step=lambda batch: time.sleep(STEP_S),
    )
    # It minds no structure, but takes them as vLLM does: what they cost before is the front's.
    verifier.facts = structs.replace(verifier.facts, structures=True)
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
        sampling = Sampling(max_tokens=NUM_TOKENS, seed=self.edge.seed)
        # A text is written far sooner than it is read: begun together, all of them would write in
        # the same second of each six, and a phase would count one such second or two.
        await asyncio.sleep(NUM_TOKENS / RATE * self.edge.seed / NUM_HONEST)
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


async def measure(
    folder: Path, phase_s: float, num_phases: int, kinds: list[str], max_sessions: int
) -> None:
    context = multiprocessing.get_context("spawn")
    files = []
    for number in range(NUM_HONEST):
        path = folder / f"key-{number}"
        path.write_text(add(folder / "keys", record(f"honest-{number}")))
        files.append(path)
    key = add(folder / "keys", record("hostile", max_sessions))
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
    await asyncio.sleep(2.0 * NUM_TOKENS / RATE)  # all of them have begun, and gone on
    goodput: dict[bool, list[float]] = {False: [], True: []}
    for phase in range(2 * num_phases):
        hostile = phase % 2 == 1
        if hostile:
            attacker = context.Process(
                target=attack, args=(key, *ports, kinds, NUM_SLOTS), daemon=True
            )
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
    parser.add_argument(
        "--max-sessions", type=int, default=MAX_SESSIONS, help="of the hostile key; 0: no limit"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        of_key = asked.kind, asked.max_sessions
        asyncio.run(measure(Path(folder), asked.phase_s, asked.phases, *of_key))


if __name__ == "__main__":
    main()
