"""The GPU part: the target answers, the drafter learns from it, and is saved and measured."""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from training.models import CAUSAL
from training.smollm2.measure import measure, read_questions
from training.smollm2.questions import FOLLOW_UPS
from training.smollm2.write import FollowUps, Writer, Written, write_for

# Cross-entropy with the target's first choice: what acceptance at temperature 0 counts.
HARD_LABEL_WEIGHT = 1.0
WARMUP_STEPS = 200
FINAL_RATE = 0.02
UNKNOWN = 0  # of the drafter's vocabulary: any token that it does not know
NUM_SPECIALS = 17  # the first tokens of the target's vocabulary


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, default=Path(".smollm2/prompts.npz"))
    parser.add_argument("--questions", type=Path, required=True, help="held-out questions")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=20_261)
    parser.add_argument("--write-s", type=float, default=290.0)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--num-new", type=int, default=320)
    parser.add_argument("--train-s", type=float, default=215.0)
    parser.add_argument("--tokens-per-step", type=int, default=98_304)
    parser.add_argument("--window", type=int, default=768)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--vocabulary", type=int, default=16_384)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--mlp", type=int, default=1024)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(args.target)
    target = AutoModelForCausalLM.from_pretrained(args.target, dtype=dtype).to(device).eval()
    writer = Writer(target, tokenizer.eos_token_id)
    marks = [f"\n<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n" for q in FOLLOW_UPS]
    asked = [torch.tensor(tokenizer(mark, add_special_tokens=False)["input_ids"]) for mark in marks]
    follow_ups = FollowUps(asked, args.batch // 10, args.num_new)
    batches = load_batches(args.prompts, args.batch)
    written = write_for(writer, batches, follow_ups, args.write_s, args.num_new, args.seed)
    print(f"wrote {len(written.tokens)} tokens, {int(written.chosen.sum())} of them answers")

    kept = vocabulary(written, args.vocabulary, target.config.vocab_size)
    draft = new_drafter(args, kept, target).to(device)
    train(draft, written, kept.to(device), args)
    save(draft, kept, args.out, args.target)
    questions = read_questions(args.questions)
    report = measure(target, draft, kept.to(device), tokenizer, questions)
    print(json.dumps(report, indent=1))
    (args.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")


def load_batches(file: Path, size: int) -> list[Tensor]:
    """Prompts [B, P] of one length each, B at most `size`; the smallest groups are left out."""
    arrays = np.load(file)
    lengths = torch.from_numpy(arrays["lengths"]).long()
    rows = torch.split(torch.from_numpy(arrays["tokens"].astype(np.int64)), lengths.tolist())
    found: list[Tensor] = []
    for length in torch.unique(lengths).tolist():
        (members,) = torch.nonzero(lengths == length, as_tuple=True)
        members = members[torch.randperm(len(members))]
        stacked = torch.stack([rows[index] for index in members.tolist()])
        found += [part for part in torch.split(stacked, size) if len(part) >= size // 16]
    return found


def vocabulary(written: Written, size: int, full: int) -> Tensor:
    """The target's ids that the drafter knows, ascending; the first stands for all others, too."""
    counts = torch.bincount(written.tokens, minlength=full).cpu().double()
    likely = written.top_logprobs[written.chosen].float().exp().flatten()
    ids = written.top_ids[written.chosen].flatten()
    weights = torch.zeros(full, dtype=torch.float64, device=ids.device)
    counts += weights.index_add_(0, ids, likely.double()).cpu()
    counts[:NUM_SPECIALS] = math.inf
    kept = counts.topk(size).indices.sort().values
    share = counts[kept[NUM_SPECIALS:]].sum() / counts[NUM_SPECIALS:].sum()
    print(f"vocabulary {size} of {full}: {share:.5f} of what the target writes")
    return kept


def new_drafter(args: argparse.Namespace, kept: Tensor, target: Any) -> Qwen3ForCausalLM:
    """Its embedding begins as the main directions of the target's."""
    heads = args.hidden // 64
    config = Qwen3Config(
        vocab_size=len(kept),
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 3 if heads % 3 == 0 else 1,
        head_dim=64,
        intermediate_size=args.mlp,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=2,
    )
    draft = Qwen3ForCausalLM(config)
    scale = 1 / math.sqrt(2 * config.num_hidden_layers)
    with torch.no_grad():
        for name, parameter in draft.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_(scale)
        embeddings = target.get_input_embeddings().weight
        taught = embeddings[kept.to(embeddings.device)].float().cpu()
        taught -= taught.mean(0)
        _, _, directions = torch.linalg.svd(taught, full_matrices=False)
        turned = taught @ directions[: args.hidden].T
        draft.model.embed_tokens.weight.copy_(0.02 * turned / turned.std())
    print(f"drafter: {sum(p.numel() for p in draft.parameters())} parameters")
    return draft


def train(
    draft: Qwen3ForCausalLM, written: Written, kept: Tensor, args: argparse.Namespace
) -> None:
    device = kept.device
    full = max(int(written.top_ids.max()), int(written.tokens.max()), int(kept.max())) + 1
    compact = torch.full((full,), -1, device=device)
    compact[kept] = torch.arange(len(kept), device=device)
    known = compact[written.tokens.long()].clamp_min(UNKNOWN).int()
    top = compact[written.top_ids.long()].int()
    groups = [
        {"params": [p for p in draft.parameters() if p.ndim > 1], "weight_decay": 0.02},
        {"params": [p for p in draft.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=device.type == "cuda")
    num_windows = max(1, args.tokens_per_step // args.window)
    span = torch.arange(args.window, device=device)
    started = time.perf_counter()
    step, spent = 0, 0.0
    draft.train()
    while spent < 1.0:
        rate = args.rate * min(1.0, (step + 1) / WARMUP_STEPS)
        rate *= FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, spent)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(known) - args.window - 1, (num_windows,)).to(device)
        places = starts[:, None] + span
        asked = written.chosen[places + 1]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            hidden = draft.model(
                known[places].long(), attention_mask=CAUSAL, use_cache=False
            ).last_hidden_state
            given = draft.lm_head(hidden[asked])
        loss = distillation_loss(
            given, top[places + 1][asked].long(), written.top_logprobs[places + 1][asked].float()
        )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(draft.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        elapsed = time.perf_counter() - started
        spent = min(1.0, elapsed / args.train_s)
        if step in (10, 100) or step % 500 == 0 or spent == 1.0:
            right = (given.argmax(-1) == top[places + 1][asked][:, 0]).float().mean()
            line = f"step {step} loss {loss.item():.4f} greedy {right.item():.4f}"
            print(f"{line} [{elapsed:.0f} s]", flush=True)
    draft.eval()
    print(f"{step} steps of {num_windows * args.window} tokens")


def distillation_loss(given: Tensor, ids: Tensor, logprobs: Tensor) -> Tensor:
    """KL over the target's likeliest tokens, plus cross-entropy with the first of them.

    given [rows, vocab]; ids, logprobs [rows, TOP], where an id of -1 is a token that the drafter
    does not know: it counts for nothing.
    """
    scores = given.float()
    inside = ids >= 0
    chosen = scores.gather(1, ids.clamp_min(0)) - scores.logsumexp(-1, keepdim=True)
    weights = logprobs.exp() * inside
    divergence = (weights * (logprobs - chosen)).sum(-1).mean()
    hard = -(chosen[:, 0] * inside[:, 0]).mean()
    return divergence + HARD_LABEL_WEIGHT * hard


def save(draft: Qwen3ForCausalLM, kept: Tensor, out: Path, target: Path) -> None:
    """Weights in bfloat16, the target's own tokenizer, and the ids that the drafter knows."""
    copy = Qwen3ForCausalLM(draft.config)
    copy.load_state_dict(draft.state_dict())
    copy.to(torch.bfloat16).save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).write_bytes((target / name).read_bytes())
    (out / "draft_vocabulary.json").write_text(json.dumps(kept.tolist(), separators=(",", ":")))


if __name__ == "__main__":
    main()
