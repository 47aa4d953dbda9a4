"""Small models with random weights, saved the way real ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

VOCAB_SIZE = 512


def save_random_model(directory: Path, architecture: str, **changes: Any) -> Path:
    """Weights are large enough for a context to matter, as it does in a trained model."""
    settings: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 200,
        "max_position_embeddings": 1024,
        "initializer_range": 0.1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
    settings.update(changes)
    torch.manual_seed(0)
    if architecture == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**settings))
    else:
        model = LlamaForCausalLM(LlamaConfig(**settings))
    model.save_pretrained(directory)
    return directory
