"""The time of a verification step on vLLM, beside plain vLLM and the GPU's own busy time.

    python -m benchmarks.vllm_steps [--shape 8b] [--sessions 1,16,64,128,256] [--drafts 0,4,mixed]
                                    [--contexts 512] [--engine both] [--csv FILE] [--json]
                                    [--tensor-parallel 2] [--kv-tokens N]

Weights are random (load_format=dummy): time does not depend on their values. `wisp` is one round of
all sessions in one step, with k random drafts for each (mixed: uniform 0..7), medians of 20;
`wisp-ahead` the same with each step launched before the last one's outcomes are taken in (`Fleet`).
`gpu_busy` is the time of the kernels, from the profiler, over the wall time; with several GPUs it
is not told, as their kernels run for other processes. `plain` is vLLM with asynchronous scheduling:
(time of 96 tokens - time of 32) / 64, every request with its own prompt.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.shapes import GPU_SHARES, QWEN3, SHAPES
from benchmarks.step_fleet import MAX_STEP_TOKENS, MAX_WINDOW, SEED, Fleet
from wisp.config import TINY

_BLOCK_TOKENS = 16  # of a block of KV: vLLM's default on GPUs
WARM_STEPS, TIMED_STEPS, PROFILED_STEPS = 4, 20, 5


def main() -> None:
    options = _arguments()
    if options.engine == "both":
        rows = [*_apart("plain", options), *_apart("wisp", options)]
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure = measure_wisp if options.engine == "wisp" else measure_plain
            rows = measure(_model(options.shape, Path(folder)), options)
    if options.csv:
        _write(options.csv, rows)
    if options.json:
        print(json.dumps({"seed": SEED, "rows": rows}))
        return
    for row in rows:
        print(", ".join(f"{name} {value}" for name, value in row.items()))


def measure_wisp(directory: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    from wisp.verifier.vllm import load
    from wisp.verifier.vllm.options import graph_sizes

    sizes = graph_sizes(max(options.sessions), MAX_WINDOW, MAX_STEP_TOKENS, _max_model_len(options))
    extra = _engine_options(options)
    if options.shape != "tiny":
        extra["compilation_config"] = {
            "cudagraph_mode": options.cudagraph_mode,
            "cudagraph_capture_sizes": [n for n in sizes if n <= options.most_captured],
        }
    verifier = load(
        directory,
        max_sessions=max(options.sessions),
        max_model_len=_max_model_len(options),
        max_window=MAX_WINDOW,
        max_step_tokens=MAX_STEP_TOKENS,
        options=extra,
    )
    rows = []
    for context, number, drafts in product(options.contexts, options.sessions, options.drafts):
        for engine, temperature in product(options.loops, options.temperatures):
            ahead = engine == "wisp-ahead"
            fleet = Fleet(verifier, number, context, temperature, ahead=ahead)
            measured = _describe(fleet, drafts, profiled=options.tensor_parallel == 1)
            rows.append(_row(options, engine, number, context, drafts, temperature, measured))
            fleet.close()
    verifier.shutdown()
    return rows


def _engine_options(options: argparse.Namespace) -> dict[str, Any]:
    """Of both engines."""
    more: dict[str, Any] = json.loads(options.engine_options)
    if options.tensor_parallel > 1:
        more["tensor_parallel_size"] = options.tensor_parallel
    if options.shape == "tiny":
        return more
    if options.kv_tokens:
        more["num_gpu_blocks_override"] = options.kv_tokens // _BLOCK_TOKENS
    share = GPU_SHARES.get(options.shape, 0.85)
    return {"load_format": "dummy", "gpu_memory_utilization": share} | more


def _max_model_len(options: argparse.Namespace) -> int:
    """Graphs are captured up to this many tokens (`wisp.verifier.vllm.options.graph_sizes`)."""
    return int(max(max(options.contexts) + 256, options.most_captured))


def _describe(fleet: Fleet, drafts: str, *, profiled: bool) -> dict[str, Any]:
    for _ in range(WARM_STEPS):
        num_tokens = fleet.step(drafts)
    times_ms = [1000 * _time(lambda: fleet.step(drafts)) for _ in range(TIMED_STEPS)]
    deciles = statistics.quantiles(times_ms, n=10)
    return {
        "new_tokens": num_tokens,
        "median_ms": round(statistics.median(times_ms), 3),
        "p10_ms": round(deciles[0], 3),
        "p90_ms": round(deciles[-1], 3),
        "gpu_busy": _busy(fleet, drafts) if profiled else None,
    }


def _row(
    options: argparse.Namespace,
    engine: str,
    number: int,
    context: int,
    drafts: str,
    temperature: float,
    measured: dict[str, Any],
) -> dict[str, Any]:
    row = {
        "model": options.shape,
        "engine": engine,
        "batch": number,
        "context": context,
        "k": drafts,
        "temperature": temperature,
        **measured,
    }
    print(row, file=sys.stderr, flush=True)
    return row


def _time(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def _busy(fleet: Fleet, drafts: str) -> float | None:
    """The share of wall time in which a kernel runs; None without a GPU.

    The profiler slows the host, not the kernels: their time is set against unprofiled steps.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    fleet.wait()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(PROFILED_STEPS):
            fleet.step(drafts)
        fleet.wait()
        torch.cuda.synchronize()
    busy_s = sum(float(event.self_device_time_total) for event in profile.key_averages()) / 1e6
    unprofiled_s = statistics.median(_time(lambda: fleet.step(drafts)) for _ in range(9))
    return round(busy_s / PROFILED_STEPS / unprofiled_s, 3)


def measure_plain(directory: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(directory),
        skip_tokenizer_init=True,
        max_model_len=_max_model_len(options),
        max_num_seqs=max(options.sessions),
        max_num_batched_tokens=MAX_STEP_TOKENS,
        seed=SEED,
        **_engine_options(options),
    )
    chance = random.Random(SEED)

    def generate(context: int, number: int, num_tokens: int) -> float:
        prompts: list[Any] = [
            {"prompt_token_ids": [chance.randrange(4096) for _ in range(context)]}
            for _ in range(number)
        ]
        sampling = SamplingParams(
            temperature=0.0, max_tokens=num_tokens, ignore_eos=True, detokenize=False
        )
        return _time(lambda: llm.generate(prompts, sampling, use_tqdm=False))

    rows = []
    for context, number in product(options.contexts, options.sessions):
        generate(context, number, 8)
        times_ms = [
            1000 * (generate(context, number, 96) - generate(context, number, 32)) / 64
            for _ in range(2)
        ]
        measured = {
            "new_tokens": number,
            "median_ms": round(statistics.median(times_ms), 3),
            "p10_ms": round(min(times_ms), 3),
            "p90_ms": round(max(times_ms), 3),
            "gpu_busy": None,
        }
        rows.append(_row(options, "plain", number, context, "0", 0.0, measured))
    return rows


def _apart(engine: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """In a process of its own: two engines do not share a GPU's memory."""
    command = [sys.executable, "-m", "benchmarks.vllm_steps", "--json", f"--engine={engine}"]
    command += [f"--shape={options.shape}"]
    command += [f"--contexts={','.join(map(str, options.contexts))}"]
    command += [f"--sessions={','.join(map(str, options.sessions))}"]
    command += [f"--drafts={','.join(options.drafts)}"]
    command += [f"--temperatures={','.join(map(str, options.temperatures))}"]
    command += ["--loops", *options.loops]
    command += [f"--cudagraph-mode={options.cudagraph_mode}"]
    command += [f"--most-captured={options.most_captured}"]
    command += [f"--tensor-parallel={options.tensor_parallel}"]
    command += [f"--engine-options={options.engine_options}"]
    command += [f"--kv-tokens={options.kv_tokens}"] if options.kv_tokens else []
    quiet = os.environ | {"VLLM_LOGGING_STREAM": "ext://sys.stderr"}
    output = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=quiet
    ).stdout
    rows: list[dict[str, Any]] = json.loads(output.splitlines()[-1])["rows"]
    return rows


def _model(shape: str, folder: Path) -> Path:
    if shape == "tiny":
        return TINY / "target"
    (folder / "config.json").write_text(json.dumps(QWEN3 | SHAPES[shape]))
    return folder


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=[*SHAPES, "tiny"], default="8b")
    parser.add_argument("--engine", choices=["both", "wisp", "plain"], default="both")
    parser.add_argument("--sessions", type=_numbers, default=[1, 16, 64, 128, 256])
    parser.add_argument("--drafts", type=lambda text: text.split(","), default=["0", "4", "mixed"])
    parser.add_argument(
        "--temperatures",
        type=lambda text: [float(number) for number in text.split(",")],
        default=[0.0],
    )
    parser.add_argument(
        "--loops", nargs="+", choices=["wisp", "wisp-ahead"], default=["wisp", "wisp-ahead"]
    )
    parser.add_argument("--contexts", type=_numbers, default=[512], help="tokens of each prompt")
    parser.add_argument("--cudagraph-mode", default="FULL", help="of the wisp engine")
    parser.add_argument(
        "--most-captured", type=int, default=2048, help="tokens of the largest CUDA graph"
    )
    parser.add_argument(
        "--tensor-parallel", type=int, default=1, metavar="GPUS", help="that share the model"
    )
    parser.add_argument("--kv-tokens", type=int, help="KV memory; default: what there is")
    parser.add_argument("--engine-options", default="{}", help="more engine arguments, as JSON")
    parser.add_argument("--csv", type=Path, help="write the rows to this file, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
