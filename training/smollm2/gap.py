"""What the drafter lacks on chat: acceptance on ever less of what it learned from.

    python -m training.smollm2.gap --words DIR --target DIR [--num 60] [--draft DIR]

On a CPU, in minutes: greedy answers to questions of the templates that it learned from about words
that it learned from, about words held out, and to questions of no template.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.smollm2.measure import Question, measure, read_questions
from training.smollm2.questions import chat_question
from training.smollm2.words import read_words

# Chosen: another than that of prompts.py, so that the questions are drawn anew.
SEED = 20_262
BUNDLED = Path("wisp/models/smollm2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=Path, required=True, help="folder with WordNet's data.*")
    parser.add_argument("--target", type=Path, required=True, help="the converted target")
    parser.add_argument("--draft", type=Path, default=BUNDLED)
    parser.add_argument("--num", type=int, default=60, help="questions of each kind")
    args = parser.parse_args()
    torch.set_num_threads(1)  # beside other work a second one would mostly wait
    tokenizer = AutoTokenizer.from_pretrained(args.target)
    target = AutoModelForCausalLM.from_pretrained(args.target).eval()
    draft = AutoModelForCausalLM.from_pretrained(args.draft, dtype=torch.float32).eval()
    kept = torch.tensor(json.loads((args.draft / "draft_vocabulary.json").read_text()))
    report = measure(target, draft, kept, tokenizer, asked(args.words, args.num), [0.0])
    print(json.dumps(report, indent=1))


def asked(words: Path, num: int) -> list[Question]:
    """`num` of each kind; of the last as many as there are."""
    rng = random.Random(SEED)
    found = []
    for kind, held_out in (("words learned from", False), ("words held out", True)):
        known = read_words(words, held_out=held_out)
        found += [{"kind": kind, "prompt": chat_question(known, rng)} for _ in range(num)]
    listed = [each for each in read_questions(BUNDLED / "prompts.json") if each["kind"] == "chat"]
    return found + [{"kind": "no template", "prompt": each["prompt"]} for each in listed[:num]]


if __name__ == "__main__":
    main()
