"""The shapes of published models, as their configurations have them: no weights are needed."""

from __future__ import annotations

from typing import Any

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 40960,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 151_936,
}
SHAPES: dict[str, dict[str, Any]] = {
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
    },
    "32b": {
        "hidden_size": 5120,
        "intermediate_size": 25600,
        "num_attention_heads": 64,
        "num_hidden_layers": 64,
    },
    # Llama-3-70B; the others are Qwen3's.
    "70b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "eos_token_id": None,  # whoever measures says how long an answer is
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "max_position_embeddings": 8192,
        "num_attention_heads": 64,
        "num_hidden_layers": 80,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000,
        "vocab_size": 128_256,
    },
}
# Of each card's memory, where vLLM's default would leave hardly any room for KV: the 70B shape in
# bfloat16 is 141 GB, 66 GiB on each of two cards of 80 GB.
GPU_SHARES = {"70b": 0.95}
