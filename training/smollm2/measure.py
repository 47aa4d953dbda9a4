"""How often a drafter names the token that the target chooses, by kind of question.

Teacher-forced, which is exact for speculation: as long as drafts are accepted, the drafter has seen
the target's own text.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NEW_TOKENS = 128  # of each answer that is looked at
TEMPERATURES = (0.0, 0.8, 1.0)
BATCH = 512  # answers written at once

Question = dict[str, str]


def read_questions(file: Path) -> list[Question]:
    """Of a JSON list: {"kind": ..., "prompt": ...}."""
    questions: list[Question] = json.loads(file.read_text())
    return questions


@torch.inference_mode()
def measure(
    target: Any,
    draft: Any,
    kept: Tensor,
    tokenizer: Any,
    questions: list[Question],
    temperatures: Sequence[float] = TEMPERATURES,
) -> dict[str, Any]:
    """By kind and temperature: acceptance, accepted tokens of rounds of 4 drafts, known tokens."""
    compact = torch.zeros(target.config.vocab_size, dtype=torch.long, device=target.device)
    compact[kept] = torch.arange(len(kept), device=target.device)
    torch.manual_seed(0)
    hits: dict[str, list[float]] = defaultdict(list)
    rounds: dict[str, list[float]] = defaultdict(list)
    known: dict[str, list[float]] = defaultdict(list)
    for temperature in temperatures:
        for first in range(0, len(questions), BATCH):
            part = questions[first : first + BATCH]
            for question, (row, start) in zip(
                part, _answers(target, tokenizer, part, temperature), strict=True
            ):
                drafted = draft(compact[row[None, :-1]]).logits[0, start - 1 :].argmax(-1)
                right = (kept[drafted] == row[start:]).tolist()
                key = f"{question['kind']} T={temperature}"
                hits[key] += right
                rounds[key] += _rounds(right)
                known[key] += torch.isin(row[start:], kept).tolist()
    return {
        "acceptance": {key: sum(found) / len(found) for key, found in hits.items()},
        "accepted of 4": {key: sum(found) / len(found) for key, found in rounds.items()},
        "known to the drafter": {key: sum(found) / len(found) for key, found in known.items()},
        "positions": {key: len(found) for key, found in hits.items()},
    }


def _answers(
    target: Any, tokenizer: Any, questions: list[Question], temperature: float
) -> Iterator[tuple[Tensor, int]]:
    """Each conversation up to its end token, and where the answer begins."""
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question["prompt"]}],
            add_generation_prompt=True,
            tokenize=False,
        )
        for question in questions
    ]
    given = tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    ).to(target.device)
    options: dict[str, Any] = {"do_sample": False}
    if temperature:
        options = {"do_sample": True, "temperature": temperature, "top_k": 0}
    rows = target.generate(
        **given, max_new_tokens=NEW_TOKENS, pad_token_id=tokenizer.pad_token_id, **options
    )
    num_prompt = given["input_ids"].shape[1]
    for row, mask in zip(rows, given["attention_mask"], strict=True):
        ends = torch.nonzero(row[num_prompt:] == tokenizer.eos_token_id)
        stop = num_prompt + int(ends[0]) + 1 if len(ends) else len(row)
        padding = num_prompt - int(mask.sum())
        yield row[padding:stop], num_prompt - padding


def _rounds(right: list[bool]) -> list[int]:
    """Accepted drafts of each round of 4, a round after the other along the text."""
    found, place = [], 0
    while place < len(right):
        count = 0
        while count < 4 and place + count < len(right) and right[place + count]:
            count += 1
        found.append(count)
        place += count + 1
    return found
