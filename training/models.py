"""The two architectures, and how they are saved."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from training.tokenizer import VOCAB_SIZE

# By definition of SPECIALS in training/tokenizer.py, whose first and third these are.
END_OF_TEXT_ID, IM_END_ID = 0, 2

# No mask is built, so attention takes the causal kernel: windows hold no padding.
CAUSAL = {"full_attention": None}


def _config(*, hidden: int, layers: int, heads: int, kv_heads: int, mlp: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=32,
        intermediate_size=mlp,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=IM_END_ID,
        pad_token_id=END_OF_TEXT_ID,
    )


def target_config() -> Qwen3Config:
    """Deep and thin: a step takes time by its layers, so drafting has something to save."""
    return _config(hidden=192, layers=16, heads=6, kv_heads=2, mlp=512)


def draft_config() -> Qwen3Config:
    return _config(hidden=128, layers=2, heads=4, kv_heads=2, mlp=384)


def new_model(config: Qwen3Config) -> Qwen3ForCausalLM:
    """Residual projections start smaller by sqrt(2 * layers), as in GPT-2."""
    model = Qwen3ForCausalLM(config)
    scale = 1 / math.sqrt(2 * config.num_hidden_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_(scale)
    return model


def logits(model: Qwen3ForCausalLM, tokens: Tensor) -> Tensor:
    output: Tensor = model(tokens, attention_mask=CAUSAL, use_cache=False).logits
    return output


def rounded(model: Qwen3ForCausalLM, dtype: torch.dtype = torch.float16) -> Qwen3ForCausalLM:
    """A copy with the weights that will be on disk, for inference."""
    copy = Qwen3ForCausalLM(model.config).to(next(model.parameters()).device)
    copy.load_state_dict(model.state_dict())
    copy = copy.to(torch.float16).to(dtype)
    return copy.eval().requires_grad_(False)


def save_model(model: Qwen3ForCausalLM, folder: Path, tokenizer: Path) -> None:
    copy = rounded(model).cpu()
    copy.generation_config = GenerationConfig(
        eos_token_id=[IM_END_ID, END_OF_TEXT_ID], pad_token_id=END_OF_TEXT_ID, do_sample=False
    )
    copy.save_pretrained(folder)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder / file.name)


def num_parameters(model: Qwen3ForCausalLM) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
