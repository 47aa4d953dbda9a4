"""The first draft of a conversation's next turn, with the drafter's KV of it parked and without.

    python -m benchmarks.drafter_turns [--draft DIR-OR-GGUF ...] [--histories 256 1024] [--json]

Other conversations have had the drafter's room meanwhile. A turn adds `QUESTION` tokens. `first_ms`
is the drafter's step behind them, `close_ms` what parking takes as a turn ends; medians of `TURNS`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.setting import setting, tell
from wisp.config import TINY, EdgeConfig
from wisp.edge.drafter.base import Drafter, DraftJob
from wisp.edge.drafter.load import load_drafter, load_tokenizer

SEED = 3  # of the texts; chosen: any number does, and one makes it repeatable
QUESTION, DRAFTED, TURNS = 32, 4, 5  # tokens, tokens and turns; chosen: a short question, a median


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draft", type=Path, nargs="+", default=[TINY / "draft"])
    parser.add_argument("--histories", type=int, nargs="+", default=[256, 1024], help="tokens")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    rows = [
        row
        for draft in asked.draft
        for history in asked.histories
        for host_kv_gib in (0.0, 0.25)
        for row in _rows(draft, history, host_kv_gib)
    ]
    tell(setting(SEED), rows, as_json=asked.json)


def _rows(draft: Path, history: int, host_kv_gib: float) -> Iterator[dict[str, Any]]:
    config = EdgeConfig.model_validate(
        {"draft": draft, "drafter": {"max_sessions": 1, "host_kv_gib": host_kv_gib}}
    )
    drafter = load_drafter(config, load_tokenizer(config))
    if drafter.max_model_len < history + TURNS * (QUESTION + DRAFTED):
        return
    chance = Random(SEED)
    texts = [_tokens(chance, drafter, history) for _ in range(2)]
    first_s, close_s = [], []
    for turn in range(TURNS + 1):
        for tokens in texts:
            drafter.open(0)
            steps_s = []
            for _ in range(DRAFTED):
                start_s = time.perf_counter()
                tokens.append(drafter.step([DraftJob(0, tokens)])[0].token)
                steps_s.append(time.perf_counter() - start_s)
            start_s = time.perf_counter()
            drafter.close(0)
            if turn:  # the first is a conversation that nobody has seen
                first_s.append(steps_s[0])
                close_s.append(time.perf_counter() - start_s)
            tokens += _tokens(chance, drafter, QUESTION)
    yield {
        "draft": f"{draft.parent.name}/{draft.name}",
        "history": history,
        "parked": host_kv_gib > 0.0,
        "first_ms": round(1e3 * statistics.median(first_s), 1),
        "close_ms": round(1e3 * statistics.median(close_s), 2),
    }


def _tokens(chance: Random, drafter: Drafter, count: int) -> list[int]:
    return [chance.randrange(drafter.vocab_size) for _ in range(count)]


if __name__ == "__main__":
    main()
