"""The GPU part: train the target, let it write, distil the drafter from it, save both.

The drafter learns from the target as rounded to float16, because that is the one it will serve.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from training.data import Corpus
from training.evaluate import held_out_loss, load_prompts
from training.models import draft_config, logits, new_model, rounded, save_model, target_config
from training.optim import Schedule, fit
from training.write import write

HARD_LABEL_WEIGHT = 0.5
CORPUS_EVERY = 4
"""While it learns from the target's writing, the drafter sees the corpus in every 4th step, because
the written windows are short."""


def main() -> None:
    args = parse_args()
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    corpus = Corpus.load(args.data, device, args.seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.data / "tokenizer")
    prompts = load_prompts()

    def loss_of(model: Qwen3ForCausalLM) -> Callable[[], str]:
        return lambda: f"held-out {held_out_loss(model, tokenizer, prompts):.4f}"

    target = compiled_layers(new_model(target_config()).to(device))
    schedule = Schedule(args.target_steps, args.target_rate, args.target_decay)
    train_target(target, corpus, schedule, args, loss_of(target))
    save_model(target, args.out / "target", args.data / "tokenizer")

    teacher = rounded(target, torch.float16 if device.type == "cuda" else torch.float32)
    started = time.perf_counter()
    written = write(teacher, corpus, args.written_batches, args.written_batch, args.written_length)
    print(f"target wrote {written.numel()} tokens [{time.perf_counter() - started:.1f} s]")

    compiled_layers(teacher)
    draft = compiled_layers(new_model(draft_config()).to(device))
    schedule = Schedule(args.draft_steps, args.draft_rate, weight_decay=0.01)
    distil(draft, teacher, corpus, written, schedule, args, loss_of(draft))
    save_model(draft, args.out / "draft", args.data / "tokenizer")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(".pair/data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=20_260)
    parser.add_argument("--target-steps", type=int, default=1300)
    parser.add_argument("--target-rate", type=float, default=3e-3)
    parser.add_argument("--target-decay", type=float, default=0.2)
    parser.add_argument("--draft-steps", type=int, default=8000)
    parser.add_argument("--draft-corpus-steps", type=int, default=1500)
    parser.add_argument("--draft-rate", type=float, default=4e-3)
    parser.add_argument("--tokens-per-step", type=int, default=65_536)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--written-batches", type=int, default=13)
    parser.add_argument("--written-batch", type=int, default=8192)
    parser.add_argument("--written-length", type=int, default=256)
    return parser.parse_args()


def train_target(
    target: Qwen3ForCausalLM,
    corpus: Corpus,
    schedule: Schedule,
    args: argparse.Namespace,
    report: Callable[[], str],
) -> None:
    next_token_loss = maybe_compile(_next_token_loss)

    def loss(step: int) -> Tensor:
        tokens = corpus.windows(args.tokens_per_step // args.window, args.window)
        return next_token_loss(logits(target, tokens), tokens)

    fit("target", target, loss, schedule, report)


def distil(
    draft: Qwen3ForCausalLM,
    teacher: Qwen3ForCausalLM,
    corpus: Corpus,
    written: Tensor,
    schedule: Schedule,
    args: argparse.Namespace,
    report: Callable[[], str],
) -> None:
    distillation_loss = maybe_compile(_distillation_loss)
    num_windows = args.tokens_per_step // args.written_length

    def loss(step: int) -> Tensor:
        if step < args.draft_corpus_steps or step % CORPUS_EVERY == 0:
            tokens = corpus.windows(args.tokens_per_step // args.window, args.window)
        else:
            rows = torch.randint(len(written), (num_windows,), generator=corpus.generator)
            tokens = written[rows.to(written.device)].long()
        with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
            wanted = logits(teacher, tokens)
        return distillation_loss(logits(draft, tokens), wanted)

    fit("draft", draft, loss, schedule, report)


def _next_token_loss(given: Tensor, tokens: Tensor) -> Tensor:
    return F.cross_entropy(given[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())


def _distillation_loss(given: Tensor, wanted: Tensor) -> Tensor:
    """KL(target || drafter), plus cross-entropy with the token the target would choose."""
    log_q = given.flatten(0, 1).float().log_softmax(-1)
    log_p = wanted.flatten(0, 1).float().log_softmax(-1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    return divergence + HARD_LABEL_WEIGHT * F.nll_loss(log_q, log_p.argmax(-1))


def compiled_layers(model: Qwen3ForCausalLM) -> Qwen3ForCausalLM:
    """Layers are compiled one by one: all share one graph, which compiles in seconds."""
    if torch.cuda.is_available():
        torch._dynamo.config.recompile_limit = 32  # one graph per model, shape and grad mode
        for layer in model.model.layers:
            layer.compile(dynamic=False)
    return model


def maybe_compile(
    function: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Tensor, Tensor], Tensor]:
    return torch.compile(function, dynamic=False) if torch.cuda.is_available() else function


if __name__ == "__main__":
    main()
