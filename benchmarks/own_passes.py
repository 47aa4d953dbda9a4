"""The time of the own drafter's passes on vLLM, by the device's own clock where it has one.

    python -m benchmarks.own_passes [--shape 32b] [--layers 8] [--method draft_model|eagle3]
                                    [--sessions 1,8,24,48] [--context 512] [--most 5] [--profile 8]

Every session is in every step, one step at a time, and verifies the drafts of the step before.
`first_ms` is what one draft takes, `pass_ms` what each further one does: (time of `--most` drafts -
time of one) / (`--most` - 1), medians of 20 steps. `launch_ms` is what the host takes to launch a
step with `--most` drafts. The passes do not depend on the target, of which `--layers` are made;
weights are the load test's. With `--profile N` the kernels of five steps of N sessions are listed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.load.loader import LOAD_FORMAT, register
from benchmarks.load.target import OWN_SHAPES, config, own_drafter_of, write_config, write_head
from benchmarks.shapes import SHAPES
from wisp.core.batch import Batch, Seat
from wisp.core.drafts import Source
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo

SEED = 11  # of the prompts; chosen: any number does, and one makes it repeatable
MAX_STEP_TOKENS, MAX_WINDOW = 512, 15  # as in the load test
_SLO = Slo(tokens_per_s=10, first_token_s=1)
WARM_STEPS, TIMED_STEPS, PROFILED_STEPS = 4, 20, 5


def main() -> None:
    options = _arguments()
    register()
    with tempfile.TemporaryDirectory() as name:
        verifier = _load(options, Path(name))
        for number in options.sessions:
            print(json.dumps(measure(verifier, number, options)), flush=True)
        if options.profile:
            print(profiled(verifier, options.profile, options))
        verifier.shutdown()


def measure(verifier: Any, number: int, options: argparse.Namespace) -> dict[str, Any]:
    sessions = _opened(verifier, number, options)
    took, launching = {}, {}
    for num_own in (1, options.most):
        times = [_step(verifier, sessions, num_own) for _ in range(WARM_STEPS + TIMED_STEPS)]
        timed = times[WARM_STEPS:]
        took[num_own] = 1e3 * statistics.median(drafting_s for drafting_s, _ in timed)
        launching[num_own] = 1e3 * statistics.median(launch_s for _, launch_s in timed)
    _close(verifier, sessions)
    return {
        "method": options.method,
        "sessions": number,
        "context": options.context,
        "first_ms": round(took[1], 3),
        "pass_ms": round((took[options.most] - took[1]) / (options.most - 1), 3),
        "launch_ms": round(launching[options.most], 3),
        "device": verifier.facts.device,
    }


def profiled(verifier: Any, number: int, options: argparse.Namespace) -> str:
    """What ran for how long in five steps, the longest first."""
    import torch

    sessions = _opened(verifier, number, options)
    for _ in range(WARM_STEPS):
        _step(verifier, sessions, options.most)
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(
        activities=[kinds.CUDA if verifier.facts.on_gpu else kinds.CPU]
    ) as found:
        for _ in range(PROFILED_STEPS):
            _step(verifier, sessions, options.most)
    _close(verifier, sessions)
    order = "self_cuda_time_total" if verifier.facts.on_gpu else "count"
    table: str = found.key_averages().table(sort_by=order, row_limit=45, max_name_column_width=70)
    return table


def _load(options: argparse.Namespace, folder: Path) -> Any:
    from wisp.verifier.vllm import load

    is_head = options.method == "eagle3"
    target = write_config(folder / "target", options.shape)
    drafter = (
        write_head(folder / "drafter", options.shape)
        if is_head
        else write_config(folder / "drafter", own_drafter_of(options.shape), options.shape)
    )
    engine_options = {"load_format": LOAD_FORMAT} | json.loads(options.engine_options)
    if options.layers:
        path = target / "config.json"
        written = json.loads(path.read_text()) | {"num_hidden_layers": options.layers}
        path.write_text(json.dumps(written))
    return load(
        target,
        max_sessions=max([*options.sessions, options.profile]),
        max_model_len=4096,
        max_window=MAX_WINDOW,
        max_step_tokens=MAX_STEP_TOKENS,
        options=engine_options,
        drafter_method=options.method,
        drafter=drafter,
    )


def _opened(verifier: Any, number: int, options: argparse.Namespace) -> list[Session]:
    """Sessions whose prompts are computed."""
    chance = random.Random(SEED)
    most = config(options.shape)["vocab_size"]
    sessions = []
    for index in range(number):
        prompt = [chance.randrange(most) for _ in range(options.context)]
        sampling = Sampling(max_tokens=2000, seed=index, temperature=0.7)
        session = Session(index, prompt, sampling, _SLO, drafts_own=True, now=float(index))
        verifier.open(session)
        sessions.append(session)
        while not session.num_output:
            seat = Seat(session, min(session.num_missing, MAX_STEP_TOKENS // 2))
            _take(seat, verifier.step(Batch([seat]))[0])
    return sessions


def _step(verifier: Any, sessions: list[Session], num_own: int) -> tuple[float, float]:
    """What drafting took, and launching the step."""
    seats = [
        Seat(session, 1, session.next_drafts(num_own), session.next_source, num_own=num_own)
        for session in sessions
    ]
    start_s = time.perf_counter()
    collect = verifier.launch(Batch(seats))
    launch_s = time.perf_counter() - start_s
    for seat, outcome in zip(seats, collect(), strict=True):
        _take(seat, outcome)
    return verifier.drafting_s, launch_s


def _take(seat: Seat, outcome: Any) -> None:
    session = seat.session
    session.computed(outcome.computed_after(seat))
    if outcome.tokens:
        source = seat.source if seat.draft else Source.EDGE
        session.verified(source, len(seat.draft), outcome.tokens, 0.0, edge_late=False)
    if outcome.own:
        session.proposed(outcome.own)


def _close(verifier: Any, sessions: list[Session]) -> None:
    for session in sessions:
        verifier.close(session)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=[*SHAPES, *OWN_SHAPES], default="32b")
    parser.add_argument("--layers", type=int, default=8, help="of the target; 0: all")
    parser.add_argument("--method", choices=["draft_model", "eagle3"], default="draft_model")
    parser.add_argument("--sessions", type=_numbers, default=[1, 8, 24, 48])
    parser.add_argument("--context", type=int, default=512, help="tokens of each prompt")
    parser.add_argument("--most", type=int, default=5, help="drafts of each session in a step")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="sessions of it")
    parser.add_argument("--engine-options", default="{}", help="more engine arguments, as JSON")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
