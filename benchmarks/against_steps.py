"""This checkout's steps against those of another one, without edges and without a drafter.

    python -m benchmarks.against_steps CHECKOUT [--engine vllm|scripted] [--sessions 16]
                                       [--tokens 40] [--pairs 20]

Each checkout has a process of its own, with an engine, its policy and the bundled target on vLLM,
or the scripted one, which costs nothing. The two write the same texts in turn, never at once, and
count their own processor time: what other programs take falls on both alike. Told is the median,
over pairs of rounds, of this one's time of a step over the other's, and its quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEED = 11  # of the prompts; chosen: any number does, and one makes it repeatable
PROMPT, MAX_MODEL_LEN, MAX_STEP_TOKENS = 32, 512, 512  # tokens
_WORKER = "--worker"
_WARM_ROUNDS = 2


def main() -> None:
    options = _arguments()
    if options.worker:
        work(options)
        return
    here = Path(__file__).parent.parent
    others, ours = (_started(checkout, options) for checkout in (options.checkout, here))
    sides = others, ours
    for side in sides:
        for _ in range(_WARM_ROUNDS):
            _round(side)
    pairs: list[tuple[float, float]] = []
    while len(pairs) < options.pairs:
        order = (0, 1) if len(pairs) % 2 else (1, 0)
        times = {index: _round(sides[index]) for index in order}
        pairs.append((times[0], times[1]))
    for side in sides:
        side.communicate("")
    ratios = [after / before for before, after in pairs]
    before_s, after_s = (statistics.median(times) for times in zip(*pairs, strict=True))
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
        f"{options.engine}, {options.sessions} sessions: a step takes {before_s * 1e3:.3f} ms "
        f"there, {after_s * 1e3:.3f} ms here, ratio {middle:.3f} ({low:.3f} to {high:.3f}) of "
        f"{len(pairs)} pairs"
    )


def _started(checkout: Path, options: argparse.Namespace) -> subprocess.Popen[str]:
    """This file, with that checkout's code."""
    command = [sys.executable, __file__, str(checkout), _WORKER, f"--engine={options.engine}"]
    command += [f"--sessions={options.sessions}", f"--tokens={options.tokens}"]
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=checkout,
    )


def _round(side: subprocess.Popen[str]) -> float:
    """Seconds of a step."""
    assert side.stdin
    assert side.stdout
    side.stdin.write("go\n")
    side.stdin.flush()
    for line in side.stdout:
        if line.startswith("{"):  # the library writes there, too
            return float(json.loads(line)["step_s"])
    raise RuntimeError(f"{side.args!r} has ended")


def work(options: argparse.Namespace) -> None:
    """A round for each line that is read."""
    verifier = _verifier(options)
    steps = [0]
    launch = verifier.launch

    def counted(batch: Any) -> Any:
        steps[0] += 1
        return launch(batch)

    verifier.launch = counted
    write = _writer(verifier, options)
    for number, _ in enumerate(sys.stdin):
        steps[0], start_s = 0, time.process_time()
        write(number)
        step_s = (time.process_time() - start_s) / steps[0]
        print(json.dumps({"step_s": step_s, "steps": steps[0]}), flush=True)
    verifier.shutdown()


def _verifier(options: argparse.Namespace) -> Any:
    size = {"max_sessions": options.sessions, "max_model_len": MAX_MODEL_LEN}
    if options.engine == "scripted":
        from wisp.testing.verifier import ScriptedVerifier

        return ScriptedVerifier(**size)
    from wisp.config import TINY
    from wisp.verifier.vllm import load

    return load(
        TINY / "target",
        max_window=16,
        max_step_tokens=MAX_STEP_TOKENS,
        overlap=True,
        options={"enforce_eager": True, "block_size": 32, "num_gpu_blocks_override": 600},
        **size,
    )


def _writer(verifier: Any, options: argparse.Namespace) -> Callable[[int], None]:
    from wisp.core.request import Request, Sampling
    from wisp.core.slo import Slo
    from wisp.engine.engine import Engine
    from wisp.engine.messages import Open
    from wisp.scheduler.policy import make_policy
    from wisp.scheduler.tuning import PolicyChoice
    from wisp.testing.clock import VirtualClock
    from wisp.testing.floor_and_slope import FloorAndSlope

    clock = VirtualClock()
    choice = PolicyChoice(policy="wisp", max_step_tokens=MAX_STEP_TOKENS)
    policy = make_policy(choice, FloorAndSlope())
    engine = Engine(verifier, policy, max_window=16, clock=clock)
    slo = Slo(tokens_per_s=10, first_token_s=10)

    def write(number: int) -> None:
        chance = random.Random(SEED)
        inbox: list[Any] = [
            Open(
                session_id=number * options.sessions + index,
                request=Request(
                    prompt=[chance.randrange(4096) for _ in range(PROMPT)],
                    sampling=Sampling(max_tokens=options.tokens, seed=index, temperature=0.7),
                ),
                slo=slo,
            )
            for index in range(options.sessions)
        ]
        while inbox or engine.sessions:
            published = engine.turn(inbox)
            inbox = []
            clock.now += 0.001
            if not published:
                clock.now += engine.wait_s() or 0.0

    return write


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--engine", choices=["vllm", "scripted"], default="vllm")
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=40, help="of each text")
    parser.add_argument("--pairs", type=int, default=20, help="of rounds")
    parser.add_argument(_WORKER, action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
