"""The CPU part: prompts for the target, sorted by length, so that a batch needs no padding."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from training.smollm2.questions import SYSTEMS, chat_question, code_question, function_head
from training.smollm2.words import read_words

# Of everything drawn at random here; chosen: any number does, and one makes it repeatable.
SEED = 20_261
# The longest prompt in tokens. Chosen: nearly all of these questions are shorter.
MAX_PROMPT = 160
CODE_SHARE = 0.33
OPEN_SHARE = 0.03  # the target writes the question, too
BARE_SHARE = 0.03  # the head of a function without a conversation around it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=Path, required=True, help="folder with WordNet's data.*")
    parser.add_argument("--target", type=Path, required=True, help="the converted target")
    parser.add_argument("--num", type=int, default=170_000)
    parser.add_argument("--out", type=Path, default=Path(".smollm2/prompts.npz"))
    args = parser.parse_args()
    rng = random.Random(SEED)
    tokenizer = AutoTokenizer.from_pretrained(args.target)
    words = read_words(args.words, held_out=False)
    symbols = python_symbols()
    texts = []
    for _ in range(args.num):
        share = rng.random()
        if share < OPEN_SHARE:
            texts.append(render(None, rng))
            continue
        if share < OPEN_SHARE + BARE_SHARE:
            texts.append(function_head(rng))
            continue
        code = share < OPEN_SHARE + BARE_SHARE + CODE_SHARE
        question = code_question(symbols, rng) if code else chat_question(words, rng)
        texts.append(render(question, rng))
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    rows = sorted((row for row in rows if len(row) <= MAX_PROMPT), key=len)
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.out, tokens=np.concatenate(rows).astype(np.uint16), lengths=lengths)
    print(f"{len(rows)} prompts, {lengths.sum()} tokens, {len(set(texts))} different")
    for text in rng.sample(texts, 12):
        print(repr(text.rpartition("<|im_start|>user\n")[2]))


def render(question: str | None, rng: random.Random) -> str:
    """As the target's chat template does; without a question, the user's turn is left open."""
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    if rng.random() < 0.12:
        system = rng.choice(SYSTEMS)
    opening = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"
    if question is None:
        return opening
    return f"{opening}{question}<|im_end|>\n<|im_start|>assistant\n"


def python_symbols() -> list[str]:
    """Modules of the standard library, and the built-in functions and their methods."""
    import builtins

    names = [name for name in sys.stdlib_module_names if not name.startswith("_")]
    names += [name for name in dir(builtins) if name.islower() and not name.startswith("_")]
    for kind in (str, list, dict, set, int, bytes):
        names += [f"{kind.__name__}.{name}" for name in dir(kind) if not name.startswith("_")]
    return sorted(names)


if __name__ == "__main__":
    main()
