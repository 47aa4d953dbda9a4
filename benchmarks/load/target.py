"""A target whose text is known in advance and whose steps cost what a real one's do.

The token after t is always t + 1 (modulo the vocabulary): one cycle through all tokens, so that no
token comes twice in a session, and what repeats itself in a text can be of use to nobody.

Every weight is random and takes part in every step. But the layers' norms scale what their branches
see down so far that nothing of them is left beside a token's own embedding, and the head's row of
t + 1 is the embedding of t. (Branches of zeros would do as well, but GPUs multiply zeros faster.)
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.shapes import QWEN3, SHAPES
from wisp.config import TINY

# Of everything drawn at random here; chosen: any number does, and one makes it repeatable.
SEED = 20261
_CPU = {"vocab_size": 4096, "max_position_embeddings": 4096, "torch_dtype": "float32"}
OWN_SHAPES: dict[str, dict[str, Any]] = {
    "small": _CPU
    | {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
    },
    "medium": _CPU
    | {
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_attention_heads": 8,
        "num_hidden_layers": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
    },
}
# Draft models for vLLM's own speculation; they are never predictable. Qwen3-0.6B's shape is that of
# its published configuration, the other one is small enough for a CPU.
DRAFTERS: dict[str, dict[str, Any]] = {
    "0.6b": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "tie_word_embeddings": True,
    },
    "small-drafter": OWN_SHAPES["small"] | {"num_hidden_layers": 1},
}
# The same for wisp-server's own drafter, which is predictable: so its head is not its embeddings.
# Each pass reads as much.
OWN_DRAFTERS: dict[str, dict[str, Any]] = {
    "0.6b-untied": DRAFTERS["0.6b"] | {"tie_word_embeddings": False},
    "small-untied": DRAFTERS["small-drafter"] | {"tie_word_embeddings": False},
}
# Tokens that an EAGLE-3 head knows, at most: as many as those published for Qwen3's targets.
_HEAD_TOKENS = 32_000
_HUSH = 1e-3  # what the layers' norms multiply by


def config(shape: str) -> dict[str, Any]:
    """Of `benchmarks.shapes.SHAPES`, or of those for CPUs and of the drafters here."""
    return QWEN3 | (OWN_SHAPES | SHAPES | DRAFTERS | OWN_DRAFTERS)[shape]


def drafter_config(drafter: str, target: str) -> dict[str, Any]:
    """A drafter has the vocabulary of its target."""
    return config(drafter) | {"vocab_size": config(target)["vocab_size"]}


def drafter_of(shape: str) -> str:
    """The shape of the draft model for a target of this one."""
    return "small-drafter" if shape in OWN_SHAPES else "0.6b"


def own_drafter_of(shape: str) -> str:
    """The shape of wisp-server's own drafter for a target of this one."""
    return "small-untied" if shape in OWN_SHAPES else "0.6b-untied"


def write_config(directory: Path, shape: str, target: str | None = None) -> Path:
    """What an engine with the load format "predictable" needs. `target`: whose drafter it is."""
    directory.mkdir(parents=True, exist_ok=True)
    written = drafter_config(shape, target) if target else config(shape)
    (directory / "config.json").write_text(json.dumps(written))
    _write_tokenizer(directory, written["vocab_size"])
    return directory


def write_head(directory: Path, target: str) -> Path:
    """An EAGLE-3 head for a target of this shape: one layer as wide as the target's."""
    directory.mkdir(parents=True, exist_ok=True)
    sizes = config(target)
    written = sizes | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 1,
        "tie_word_embeddings": False,
        "draft_vocab_size": min(_HEAD_TOKENS, sizes["vocab_size"] // 2),
    }
    (directory / "config.json").write_text(json.dumps(written))
    _write_tokenizer(directory, sizes["vocab_size"])
    return directory


def _write_tokenizer(directory: Path, vocab_size: int) -> None:
    """The bundled pair's, with more words for a larger vocabulary: a token without a text is not
    sent to a reader before the next one that has one, so that whoever counts what comes over HTTP
    would count something else."""
    shutil.copy(TINY / "target" / "tokenizer_config.json", directory)
    read: dict[str, Any] = json.loads((TINY / "target" / "tokenizer.json").read_text())
    vocab: dict[str, int] = read["model"]["vocab"]
    ids = range(len(vocab), vocab_size)
    words = (word for word in (f"Ġ{number}" for number in itertools.count()) if word not in vocab)
    vocab |= dict(zip(words, ids, strict=False))
    (directory / "tokenizer.json").write_text(json.dumps(read))


def write_model(directory: Path, shape: str = "small") -> Path:
    """A shape for CPUs with its weights, as a Hugging Face directory."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    write_config(directory, shape)
    torch.manual_seed(SEED)
    model = Qwen3ForCausalLM(Qwen3Config.from_pretrained(str(directory)))
    make_predictable(dict(model.named_parameters()), model.config.vocab_size)
    model.save_pretrained(str(directory))
    return directory


@torch.no_grad()
def make_predictable(weights: Mapping[str, Tensor], vocab_size: int, rank: int = 0) -> None:
    """Change a randomly initialised decoder in place; names as in Hugging Face's models.

    An engine may have padded the vocabulary: the rows beyond it stay without meaning. With tensor
    parallelism each rank holds as many rows of embeddings and head, in order.
    """
    for name, weight in weights.items():
        if name.endswith(("input_layernorm.weight", "post_attention_layernorm.weight")):
            weight.fill_(_HUSH)
    weights["model.norm.weight"].fill_(1.0)
    embeddings, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    torch.manual_seed(SEED)  # every rank draws the same
    rows = embeddings.new_empty(vocab_size, embeddings.shape[1]).normal_()
    width = math.sqrt(rows.shape[1])
    rows.mul_(width / torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float32))
    first = rank * len(embeddings)
    ours = torch.arange(first, min(first + len(embeddings), vocab_size), device=rows.device)
    embeddings[: len(ours)] = rows[ours]
    head.zero_()
    head[: len(ours)] = rows[(ours - 1) % vocab_size] / width
