"""How well a drafter agrees with its target, on held-out prompts.

Greedy acceptance: the share of positions of the target's own greedy text at which the drafter's
argmax is the target's token. At temperature 1: the mean probability, over the target's sampled
text, that the target samples the drafter's argmax. Both are teacher-forced, which is exact for the
rounds of speculation too: as long as drafts are accepted, the drafter has seen the target's text.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

PAIR = Path(__file__).parent.parent / "wisp" / "models" / "tiny"
NEW_TOKENS = 128
DRAFT_LENGTH = 4
BATCH = 40

Prompt = dict[str, str]


@dataclass(frozen=True)
class Report:
    target_parameters: int
    draft_parameters: int
    size_mb: float
    target_held_out_loss: float
    draft_held_out_loss: float
    greedy_acceptance: float
    greedy_acceptance_text: float
    greedy_acceptance_chat: float
    sampled_acceptance: float
    greedy_accepted_length: float
    """Accepted draft tokens per round of DRAFT_LENGTH; a round commits one token more."""
    num_positions: int
    seconds: float


@dataclass(frozen=True)
class Written:
    """The target's continuations, without padding and up to their end token."""

    rows: list[list[int]]
    starts: list[int]
    """Where in its row each continuation begins."""


def load_prompts(file: Path = PAIR / "prompts.json") -> list[Prompt]:
    prompts: list[Prompt] = json.loads(file.read_text())
    return prompts


def prompt_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    text = prompt["prompt"]
    if prompt["kind"] == "chat":
        message = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    ids: list[int] = tokenizer.encode(text)
    return ids


@torch.no_grad()
def held_out_loss(model: Any, tokenizer: Any, prompts: list[Prompt]) -> float:
    """Mean loss per token of what follows the prompts in the held-out files."""
    rows, starts = [], []
    for prompt in prompts:
        ids = prompt_ids(tokenizer, prompt)
        starts.append(len(ids))
        rows.append(ids + tokenizer.encode(prompt["reference"]))
    total, count = 0.0, 0
    for logits, tokens, mask in forced(model, Written(rows, starts)):
        losses = F.cross_entropy(logits.transpose(1, 2).float(), tokens, reduction="none")
        total += float(losses[mask].sum())
        count += int(mask.sum())
    return total / count


def forced(model: Any, written: Written) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Per batch: logits, the token each predicts, and which of these belong to continuations."""
    model.eval()
    device = next(model.parameters()).device
    longest = max(map(len, written.rows))  # one shape for all batches
    for first in range(0, len(written.rows), BATCH):
        rows, starts = written.rows[first : first + BATCH], written.starts[first : first + BATCH]
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
        # Padding on the right needs no attention mask: nothing before it looks at it.
        logits = model(tokens, use_cache=False).logits[:, :-1]
        position = torch.arange(1, longest, device=device)
        begin = torch.tensor(starts, device=device)[:, None]
        end = torch.tensor([len(row) for row in rows], device=device)[:, None]
        yield logits, tokens[:, 1:], (position >= begin) & (position < end)


@torch.no_grad()
def continuations(
    target: Any, tokenizer: Any, prompts: list[Prompt], temperature: float, seed: int = 0
) -> Written:
    torch.manual_seed(seed)
    device = next(target.parameters()).device
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    rows, starts = [], []
    for first in range(0, len(prompts), BATCH):
        ids = [prompt_ids(tokenizer, prompt) for prompt in prompts[first : first + BATCH]]
        longest = max(map(len, ids))
        padded = [[tokenizer.pad_token_id] * (longest - len(row)) + row for row in ids]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in ids]
        output = target.generate(
            torch.tensor(padded, device=device),
            attention_mask=torch.tensor(mask, device=device),
            max_new_tokens=NEW_TOKENS,
            pad_token_id=tokenizer.pad_token_id,
            **sampling,
        )
        ends = _end_ids(target)
        for row, generated in zip(ids, output[:, longest:].tolist(), strict=True):
            length = next((i + 1 for i, t in enumerate(generated) if t in ends), len(generated))
            rows.append(row + generated[:length])
            starts.append(len(row))
    return Written(rows, starts)


def _end_ids(model: Any) -> set[int]:
    ids = model.generation_config.eos_token_id
    return set(ids) if isinstance(ids, list) else {ids}


@torch.no_grad()
def matches(draft: Any, written: Written) -> list[list[bool]]:
    """Per continuation and position: is the drafter's argmax the target's token?"""
    return [
        row_matches[row_mask].tolist()
        for logits, tokens, mask in forced(draft, written)
        for row_matches, row_mask in zip(logits.argmax(-1) == tokens, mask, strict=True)
    ]


@torch.no_grad()
def sampled_acceptance(target: Any, draft: Any, written: Written) -> float:
    total, count = 0.0, 0
    pairs = zip(forced(target, written), forced(draft, written), strict=True)
    for (wanted, _, mask), (given, _, _) in pairs:
        drafted = given.argmax(-1, keepdim=True)
        probability = wanted.float().softmax(-1).gather(-1, drafted).squeeze(-1)
        total += float(probability[mask].sum())
        count += int(mask.sum())
    return total / count


def accepted_length(rows: list[list[bool]], draft_length: int) -> float:
    """Accepted drafts per round, where a round commits them and the target's next choice."""
    accepted, rounds = 0, 0
    for row in rows:
        position = 0
        while position < len(row):
            block = row[position : position + draft_length]
            run = block.index(False) if False in block else len(block)
            accepted, rounds, position = accepted + run, rounds + 1, position + run + 1
    return accepted / rounds


def evaluate(target_folder: Path, draft_folder: Path, prompts: list[Prompt]) -> Report:
    started = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(target_folder)
    target, draft = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
        for folder in (target_folder, draft_folder)
    )
    rows = matches(draft, continuations(target, tokenizer, prompts, temperature=0.0))
    sampled = continuations(target, tokenizer, prompts, temperature=1.0)
    by_kind = {
        kind: [row for row, prompt in zip(rows, prompts, strict=True) if prompt["kind"] == kind]
        for kind in ("text", "chat")
    }
    files = [*target_folder.iterdir(), *draft_folder.iterdir()]
    return Report(
        target_parameters=target.num_parameters(),
        draft_parameters=draft.num_parameters(),
        size_mb=sum(file.stat().st_size for file in files) / 1e6,
        target_held_out_loss=held_out_loss(target, tokenizer, prompts),
        draft_held_out_loss=held_out_loss(draft, tokenizer, prompts),
        greedy_acceptance=_mean(rows),
        greedy_acceptance_text=_mean(by_kind["text"]),
        greedy_acceptance_chat=_mean(by_kind["chat"]),
        sampled_acceptance=sampled_acceptance(target, draft, sampled),
        greedy_accepted_length=accepted_length(rows, DRAFT_LENGTH),
        num_positions=sum(map(len, rows)),
        seconds=time.perf_counter() - started,
    )


def _mean(rows: list[list[bool]]) -> float:
    return sum(map(sum, rows)) / max(1, sum(map(len, rows)))


def print_samples(folder: Path, prompts: list[Prompt]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    target = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for temperature in (0.0, 0.8):
        written = continuations(target, tokenizer, prompts, temperature)
        for prompt, row, start in zip(prompts, written.rows, written.starts, strict=True):
            print(f"--- {prompt['kind']}, temperature {temperature}: {prompt['prompt']!r}")
            print(tokenizer.decode(row[start:]))


def main() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=PAIR / "target")
    parser.add_argument("--draft", type=Path, default=PAIR / "draft")
    parser.add_argument("--prompts", type=Path, default=PAIR / "prompts.json")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--samples", type=int, default=0, help="print so many texts of the target")
    args = parser.parse_args()
    prompts = load_prompts(args.prompts)
    if args.samples:
        print_samples(args.target, prompts[:: max(1, len(prompts) // args.samples)])
        return
    report = asdict(evaluate(args.target, args.draft, prompts))
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(f"{name:24} {value:.6g}" for name, value in report.items()))


if __name__ == "__main__":
    main()
