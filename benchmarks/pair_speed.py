"""The speed of the real pair over its target alone, by kind of question and temperature.

    python -m benchmarks.pair_speed [--json] [--questions 3] [--tokens 64] [--temperatures 0 0.8]
                                    [--human-eval HumanEval.jsonl] [--draft torch]

Real processes as in the demo: each question is answered through an edge, and then by the server
alone without any drafts, on the same cores. `--draft` takes a kind of GGUF file, too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import track

from benchmarks.pair import TORCH, questions
from benchmarks.setting import describe, setting
from wisp.config import SMOLLM2
from wisp.demo.comparison import Comparison, Question, figures
from wisp.demo.main import DemoConfig, compare, start
from wisp.demo.pairs import find_pair
from wisp.models.public.export import Kind, export

SEED = 500  # of the first answer; chosen: that of benchmarks.pair, which asks the same questions
WARM = Question("chat", "Say hello.", 0.0, SEED)  # before the clock counts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--questions", type=int, default=3, help="of each kind")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.8])
    parser.add_argument("--human-eval", type=Path, help="its tasks, as JSON lines")
    parser.add_argument("--draft", default=TORCH, choices=[TORCH, *get_args(Kind)])
    options = parser.parse_args()
    asked = [
        Question(kind, text, temperature, SEED + number)
        for number, (kind, text) in enumerate(questions(options.questions, options.human_eval))
        for temperature in options.temperatures
    ]
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="wisp-pair-speed-") as name, ExitStack() as stack:
        pair = find_pair("smollm2", console.print)
        if pair.name != "smollm2":
            raise SystemExit("the target is not here: wisp models get smollm2")
        if options.draft != TORCH:
            draft = Path(name) / f"{options.draft}.gguf"
            export(SMOLLM2, draft, options.draft)
            pair = replace(pair, draft=draft)
        server, (edge, _) = start(pair, "torch", Path(name), stack)
        config = DemoConfig(json=True, max_tokens=options.tokens)
        compare(0, edge, server, WARM, config, console)
        shown = track(asked, description="questions", console=console, transient=True)
        compared = [compare(0, edge, server, each, config, console) for each in shown]
    about = setting(SEED, questions=options.questions, tokens=options.tokens, draft=options.draft)
    rows = summarise(compared)
    if options.json:
        print(json.dumps({"setting": about, "rows": rows}))
        return
    print(describe(about))
    for row in rows:
        print(
            f"{row['kind']:10} temperature {row['temperature']:g}: {row['speedup']:.2f} x, "
            f"{row['tokens_per_s']:.1f} against {row['tokens_per_s_alone']:.1f} tokens/s, "
            f"acceptance {row['acceptance']:.2f}, coverage {row['coverage']:.2f}, "
            f"{row['tokens_per_step']:.2f} tokens a step, {row['tokens']} tokens, "
            f"{'all equal' if row['lossless'] else 'NOT EQUAL'}"
        )


def summarise(compared: Sequence[Comparison]) -> list[dict[str, Any]]:
    """A row for each kind and temperature; coverage is the share of rejections with a fork."""
    cells = sorted({(each.request.kind, each.request.temperature) for each in compared})
    rows = []
    for kind, temperature in cells:
        alike = [
            each
            for each in compared
            if (each.request.kind, each.request.temperature) == (kind, temperature)
        ]
        rejections = sum(each.wisp["rejections"] for each in alike)
        covered = sum(each.wisp["covered_rejections"] for each in alike)
        rows.append(
            {"kind": kind, "temperature": temperature, "coverage": covered / max(1, rejections)}
            | figures(alike)
        )
    return rows


if __name__ == "__main__":
    main()
