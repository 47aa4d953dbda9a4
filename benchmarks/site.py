"""What the drafter of a site drafts for many users at once, one engine beside another.

    python -m benchmarks.site [--shape small-untied] [--engines transformers vllm]
        [--users 1 8 32] [--temperatures 0 0.7] [--device cpu] [--memory-share 0.5]
        [--options '{"enforce_eager": true}'] [--draft DIR] [--csv FILE]

Each engine is `wisp edge-bench` in a process of its own, on the same weights: a shape of
`benchmarks.load.target`, made predictable, so that its texts are as sure of themselves as a trained
drafter's; or `--draft`. A row for each engine, temperature and number of users.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.load.target import OWN_DRAFTERS, SEED, make_predictable, write_config
from benchmarks.setting import describe, setting

# Of a text. Chosen: a conversation of some turns, for which the transformers drafter has room on
# one card for 32 users.
_MAX_MODEL_LEN = 2048
# Seconds after which an engine is given up. Chosen: ten times what one took here.
_PATIENCE_S = 600.0
_TARGETS = {"0.6b-untied": "32b", "small-untied": "small"}  # whose vocabularies they have
# Of a number format that the weights are written in, by where they are read.
_FORMATS = {"cpu": torch.float32, "cuda": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=OWN_DRAFTERS, default="small-untied")
    parser.add_argument("--draft", type=Path, help="a Hugging Face directory instead")
    parser.add_argument("--engines", nargs="+", default=["transformers", "vllm"])
    parser.add_argument("--users", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-share", type=float, default=0.5, help="of the card, for vLLM")
    parser.add_argument("--options", default="{}", help="vLLM's engine arguments")
    parser.add_argument("--csv", type=Path, help="write the rows here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wisp-site-") as folder:
        draft = options.draft or write_drafter(Path(folder), options.shape, options.device)
        about = setting(SEED, draft=options.draft or options.shape, device=options.device)
        print(describe(about), flush=True)
        rows = []
        for engine in options.engines:
            for row in measured(engine, draft, options):
                rows.append(row)
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def write_drafter(directory: Path, shape: str, device: str) -> Path:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    write_config(directory, shape, _TARGETS[shape])
    torch.manual_seed(SEED)
    torch.set_default_dtype(_FORMATS[device.partition(":")[0]])
    with torch.device(device):
        model = Qwen3ForCausalLM(Qwen3Config.from_pretrained(str(directory)))
    torch.set_default_dtype(torch.float32)
    make_predictable(dict(model.named_parameters()), model.config.vocab_size)
    model.save_pretrained(str(directory))
    return directory


def measured(engine: str, draft: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    flags = [
        f"--engine={engine}",
        f"--draft={draft}",
        f"--temperatures={','.join(map(str, options.temperatures))}",
        f"--users={','.join(map(str, options.users))}",
        f"--drafter.max_sessions={max(options.users)}",
        f"--drafter.max_model_len={_MAX_MODEL_LEN}",
        f"--drafter.device={options.device}",
        f"--drafter.memory_share={options.memory_share}",
    ]
    if options.device == "cpu":  # as vLLM has it there
        flags.append("--drafter.dtype=float32")
    if engine == "vllm":
        flags += ["--drafter.options", options.options]
    begun_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "wisp.cli", "edge-bench", *flags],
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
    )
    if done.returncode:
        raise SystemExit(f"{engine}: {done.stderr[-4000:]}")
    took_s = time.monotonic() - begun_s
    for each in json.loads(done.stdout)["users"]:
        yield {
            "engine": engine,
            "temperature": each["temperature"],
            "users": each["users"],
            "step_ms": round(1e3 * each["step_s"], 3),
            "tokens_per_s_each": round(each["tokens_per_s_each"], 1),
            "tokens_per_s": round(each["tokens_per_s"], 1),
            "prompts_s": round(each["prompts_s"], 3),
            "run_s": round(took_s, 1),
        }


if __name__ == "__main__":
    main()
