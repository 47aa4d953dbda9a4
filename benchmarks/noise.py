"""What the target's own noise and alternatives bring an edge, on a pair's own texts, paired.

    python -m benchmarks.noise [--json] [--target DIR --draft DIR] [--texts 40]

The target writes on from held-out prompts at each temperature; at every position of its text the
drafter's candidates are ranked once without noise and once with that of the target's choice. A
rejection is covered if one of the next candidates is the choice. Then: what the ranking costs, and
what a step of the drafter costs by how many branches are in it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.predictor_traces import Text, encode, logits_of, write
from benchmarks.setting import describe, setting
from wisp.config import TINY
from wisp.core.request import Sampling
from wisp.edge.drafter.base import NUM_CANDIDATES
from wisp.models.slots import SlotModel
from wisp.models.tokenizer import Tokenizer
from wisp.sampling.draft import rank
from wisp.sampling.philox import gumbel_numpy
from wisp.verifier.torch import eos_token_ids

SEED = 7  # of everything drawn at random here; chosen: any number does, and one makes it repeatable
TEMPERATURES = (0.0, 0.5, 0.8, 1.0, 1.2)
MAX_TOKENS = 80
LARGE = 151_936  # tokens: the vocabulary of Qwen3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--target", type=Path, default=TINY / "target", help="target directory")
    parser.add_argument("--draft", type=Path, default=TINY / "draft", help="drafter directory")
    parser.add_argument("--texts", type=int, default=40, help="held-out prompts")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "setting": setting(SEED, texts=options.texts, max_tokens=MAX_TOKENS),
        "rows": measure(options.target, options.draft, options.texts),
        "ranking_ms": ranking_ms(),
    }
    if options.json:
        print(json.dumps(result))
        return
    print(describe(result["setting"]))
    for row in result["rows"]:
        covered = " / ".join(f"{share:.3f}" for share in row["covered"])
        print(
            f"temperature {row['temperature']:g}, noise {row['noise']}: acceptance "
            f"{row['acceptance']:.3f} of {row['positions']}, covered by 1 / 2 / 3: {covered}"
        )
    for name, time_ms in result["ranking_ms"].items():
        print(f"{name}: {time_ms:.2f} ms")


def measure(target: Path, draft: Path, num_texts: int) -> list[dict[str, Any]]:
    texts = _write(target, draft, num_texts)
    drafter = SlotModel(draft, len(texts), max(len(text.tokens) for text in texts), num_threads=1)
    found: dict[tuple[float, bool], list[NDArray[np.bool_]]] = {}
    for slot, text in enumerate(texts):
        logits = logits_of(drafter, text.tokens[:-1], len(text.truth), slot).numpy()
        positions = range(text.num_prompt, len(text.tokens))
        for noise in (False, True):
            samplings = [text.sampling if noise else None] * len(positions)
            ranked = rank(logits, samplings, positions, NUM_CANDIDATES)
            tokens = np.array([row.tokens[:NUM_CANDIDATES] for row in ranked])
            hits = tokens == np.array(text.truth)[:, None]
            found.setdefault((text.sampling.temperature, noise), []).append(hits)
    return [
        {"temperature": temperature, "noise": noise, **_shares(np.concatenate(hits))}
        for (temperature, noise), hits in found.items()
    ]


def _write(target: Path, draft: Path, num_texts: int) -> list[Text]:
    """The target's texts: each prompt at every temperature."""
    tokenizer = Tokenizer(draft)
    held_out = json.loads((TINY / "prompts.json").read_text())
    prompts = [prompt for prompt in held_out if prompt["kind"] == "text"][:num_texts]
    texts = []
    for index, prompt in enumerate(prompts):
        tokens = encode(tokenizer, prompt)
        for temperature in TEMPERATURES:
            sampling = Sampling(max_tokens=MAX_TOKENS, seed=SEED + index, temperature=temperature)
            texts.append(Text(list(tokens), len(tokens), sampling))
    longest = max(text.num_prompt for text in texts) + MAX_TOKENS
    judge = SlotModel(target, len(texts), longest, num_threads=1)
    write(judge, texts, eos_token_ids(target, judge.config.eos_token_id))
    return texts


def _shares(hits: NDArray[np.bool_]) -> dict[str, Any]:
    """hits: [positions, candidates], whether the candidate is the choice."""
    rejected = hits[~hits[:, 0]]
    return {
        "positions": len(hits),
        "acceptance": float(hits[:, 0].mean()),
        "covered": [float(rejected[:, 1 : 2 + k].any(1).mean()) for k in range(NUM_CANDIDATES - 1)],
    }


def ranking_ms() -> dict[str, float]:
    """Of one row: normal logits, a few of which stand out by so much."""
    chance = np.random.default_rng(SEED)
    sampling = Sampling(max_tokens=1, seed=SEED, temperature=0.8)
    seeds, positions = np.array([SEED], np.uint64), np.array([50])
    found = {"noise of 151,936 tokens": _best_ms(lambda: gumbel_numpy(seeds, positions, LARGE))}
    for vocab in (4096, LARGE):
        for lead in (0.0, 15.0):
            logits = chance.normal(0.0, 2.5, (1, vocab)).astype(np.float32)
            logits[0, :20] += lead
            name = f"ranking {vocab:,} tokens, the likeliest ahead by {lead:g}"
            found[name] = _best_ms(
                lambda logits=logits: rank(logits, [sampling], [50], NUM_CANDIDATES)
            )
    return found


def _best_ms(call: Any, num_calls: int = 20, num_tries: int = 5) -> float:
    times_s = []
    for _ in range(num_tries):
        start_s = perf_counter()
        for _ in range(num_calls):
            call()
        times_s.append((perf_counter() - start_s) / num_calls)
    return 1000.0 * min(times_s)


if __name__ == "__main__":
    main()
