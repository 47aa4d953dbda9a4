"""Text that the target writes itself, for the drafter to learn from."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, Qwen3ForCausalLM

from training.data import Corpus
from training.models import CAUSAL


@torch.inference_mode()
def write(
    target: Qwen3ForCausalLM, corpus: Corpus, batches: int, batch: int, length: int
) -> Tensor:
    """Windows of `length` tokens, prompts included: half greedy, half at temperatures 0.8 to 1.0.

    Nothing stops at an end token: what the target writes after it is as good to learn from.
    """
    device = corpus.text.device
    noise = torch.Generator(device).manual_seed(corpus.generator.initial_seed())
    written = []
    for _ in range(batches):
        prompts = corpus.prompts(batch)
        # Text comes before chat in a batch of prompts: alternate, so both are written both ways.
        temperature = 0.8 + 0.2 * torch.rand(batch, 1, generator=noise, device=device)
        temperature[::2] = 0.0
        written.append(_continue(target, prompts, length, temperature, noise).to(torch.int16))
    return torch.cat(written).clone()


def _continue(
    target: Qwen3ForCausalLM,
    prompts: Tensor,
    length: int,
    temperature: Tensor,
    noise: torch.Generator,
) -> Tensor:
    cache = DynamicCache(config=target.config)
    tokens = [prompts]
    for _ in range(length - prompts.shape[1]):
        output = target(
            tokens[-1],
            past_key_values=cache,
            attention_mask=CAUSAL,
            use_cache=True,
            logits_to_keep=1,
        )
        scores = output.logits[:, -1].float()
        uniform = torch.rand(scores.shape, generator=noise, device=scores.device)
        gumbel = -(-uniform.clamp_min(1e-10).log()).clamp_min(1e-10).log()
        tokens.append((scores + temperature * gumbel).argmax(-1, keepdim=True))
    return torch.cat(tokens, dim=1)
