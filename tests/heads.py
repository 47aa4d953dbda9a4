"""EAGLE-3 heads of random weights for the bundled target, and what they must draft."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from wisp.config import TINY

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MLP = 192, 4, 2, 32, 256
VOCAB = 4096
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "num_hidden_layers": 1,
    "vocab_size": VOCAB,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


def _drawing() -> Callable[[int, int], torch.Tensor]:
    """Makes matrices of so many rows and columns."""
    chance = torch.Generator().manual_seed(7)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        drawn: torch.Tensor = torch.randn(rows, columns, generator=chance)
        return drawn / math.sqrt(columns)

    return matrix


def weights(draft_vocab: int) -> dict[str, torch.Tensor]:
    matrix = _drawing()
    found = {
        "midlayer.self_attn.q_proj.weight": matrix(HEADS * HEAD_DIM, 2 * HIDDEN),
        "midlayer.self_attn.k_proj.weight": matrix(KV_HEADS * HEAD_DIM, 2 * HIDDEN),
        "midlayer.self_attn.v_proj.weight": matrix(KV_HEADS * HEAD_DIM, 2 * HIDDEN),
        "midlayer.self_attn.o_proj.weight": matrix(HIDDEN, HEADS * HEAD_DIM),
        "midlayer.mlp.gate_proj.weight": matrix(MLP, HIDDEN),
        "midlayer.mlp.up_proj.weight": matrix(MLP, HIDDEN),
        "midlayer.mlp.down_proj.weight": matrix(HIDDEN, MLP),
        "fc.weight": matrix(HIDDEN, 3 * HIDDEN),
        "lm_head.weight": matrix(draft_vocab, HIDDEN),
    }
    for name in ("midlayer.input_layernorm", "midlayer.hidden_norm", "norm"):
        found[f"{name}.weight"] = torch.ones(HIDDEN)
    found["midlayer.post_attention_layernorm.weight"] = torch.ones(HIDDEN)
    if draft_vocab != VOCAB:  # it knows every second token
        ids = torch.arange(draft_vocab) * (VOCAB // draft_vocab)
        found["d2t"] = ids - torch.arange(draft_vocab)
    return found


def write_head(directory: Path, draft_vocab: int = VOCAB) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    config = CONFIG | {"draft_vocab_size": draft_vocab}
    (directory / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / "target" / name, directory / name)
    save_file(weights(draft_vocab), str(directory / "model.safetensors"))
    return directory


class Reference:
    """Such a head, computed anew for each text: what it drafts greedily."""

    def __init__(self, draft_vocab: int = VOCAB) -> None:
        self._weights = weights(draft_vocab)
        self._target = AutoModelForCausalLM.from_pretrained(TINY / "target", dtype=torch.float32)

    @torch.inference_mode()
    def drafts(self, tokens: Sequence[int], num: int) -> list[int]:
        """Behind a text, whose last token the target has just chosen."""
        known = torch.tensor([tokens[:-1]])
        layers = self._target(known, output_hidden_states=True).hidden_states
        # The layers that vLLM gives to a head by default, of 16.
        states = torch.cat([layers[index][0] for index in (2, 8, 13)], dim=-1)
        states = states @ self._weights["fc.weight"].T
        inputs, found = list(tokens[1:]), []
        for _ in range(num):
            seen = self._layer(torch.tensor(inputs), states)
            best = int((_norm(seen[-1]) @ self._weights["lm_head.weight"].T).argmax())
            found.append(best + int(self._weights["d2t"][best]) if "d2t" in self._weights else best)
            inputs.append(found[-1])
            states = torch.cat([states, seen[-1:]])
        return found

    def _layer(self, inputs: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """inputs: [n], the token behind each; states: [n, HIDDEN]."""
        embedded = self._target.get_input_embeddings()(inputs)
        both = torch.cat([_norm(embedded), _norm(states)], dim=-1)

        def heads(name: str) -> torch.Tensor:
            found = both @ self._weights[f"midlayer.self_attn.{name}_proj.weight"].T
            return found.view(len(inputs), -1, HEAD_DIM).transpose(0, 1)

        q, k = _rotated(heads("q")), _rotated(heads("k"))
        shared = HEADS // KV_HEADS
        k, v = k.repeat_interleave(shared, 0), heads("v").repeat_interleave(shared, 0)
        seen = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        seen = seen.transpose(0, 1).reshape(len(inputs), -1)
        states = states + seen @ self._weights["midlayer.self_attn.o_proj.weight"].T
        normed = _norm(states)
        gate = normed @ self._weights["midlayer.mlp.gate_proj.weight"].T
        up = normed @ self._weights["midlayer.mlp.up_proj.weight"].T
        mixed = torch.nn.functional.silu(gate) * up
        return states + mixed @ self._weights["midlayer.mlp.down_proj.weight"].T


def _norm(states: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.rms_norm(states, (HIDDEN,), eps=CONFIG["rms_norm_eps"])


def _rotated(heads: torch.Tensor) -> torch.Tensor:
    """[heads, n, HEAD_DIM], by their positions."""
    half = HEAD_DIM // 2
    speeds = CONFIG["rope_theta"] ** (-torch.arange(half) / half)
    angles = torch.arange(heads.shape[1])[:, None] * speeds
    first, second = heads[..., :half], heads[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def write_mtp_target(directory: Path) -> Path:
    """A target of MiMo's shape with one MTP layer, whose text is known: behind a token comes the
    next id. The layer drafts that, too."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["MiMoForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "num_hidden_layers": 2,
        "num_nextn_predict_layers": 1,
        "vocab_size": VOCAB,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
    (directory / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / "target" / name, directory / name)
    save_file(_mtp_weights(), str(directory / "model.safetensors"))
    return directory


def _mtp_weights() -> dict[str, torch.Tensor]:
    matrix, width = _drawing(), HIDDEN // HEADS
    embeddings = matrix(VOCAB, HIDDEN) * math.sqrt(HIDDEN)
    found = {
        "model.embed_tokens.weight": embeddings,
        "model.norm.weight": torch.ones(HIDDEN),
        "lm_head.weight": embeddings.roll(1, 0) / math.sqrt(HIDDEN),
    }
    for layer in ("layers.0", "layers.1", "mtp_layers.0"):
        prefix = f"model.{layer}"
        for name, rows in (("q", HEADS * width), ("k", KV_HEADS * width), ("v", KV_HEADS * width)):
            found[f"{prefix}.self_attn.{name}_proj.weight"] = matrix(rows, HIDDEN)
            found[f"{prefix}.self_attn.{name}_proj.bias"] = torch.zeros(rows)
        found[f"{prefix}.self_attn.o_proj.weight"] = matrix(HIDDEN, HEADS * width)
        found[f"{prefix}.mlp.gate_proj.weight"] = matrix(MLP, HIDDEN)
        found[f"{prefix}.mlp.up_proj.weight"] = matrix(MLP, HIDDEN)
        found[f"{prefix}.mlp.down_proj.weight"] = matrix(HIDDEN, MLP)
        # What the branches add is little beside a token's own embedding.
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{prefix}.{name}.weight"] = torch.full((HIDDEN,), 0.1)
    # Of the token behind, and of what the target had in mind, the former is passed on.
    ours = torch.cat([0.05 * matrix(HIDDEN, HIDDEN), torch.eye(HIDDEN)], dim=1)
    found["model.mtp_layers.0.input_proj.weight"] = ours
    for name in ("token_layernorm", "hidden_layernorm", "final_layernorm"):
        found[f"model.mtp_layers.0.{name}.weight"] = torch.ones(HIDDEN)
    return found
