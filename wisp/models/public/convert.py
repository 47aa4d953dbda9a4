"""A GGUF file of the architecture llama, made a Hugging Face directory in float32.

Every weight is exactly what the quantized one stands for, so the directory is the reference for
this model's texts; llama.cpp itself rounds activations as well and may choose otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from wisp.errors import ConfigError

Weights = dict[str, NDArray[np.float32]]

# What llama.cpp calls the tensors of a layer, and what transformers calls them.
_OF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OF_MODEL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
# The type of a token that stands for no text, in GGUF's own standard: `tokenizer.ggml.token_type`.
_CONTROL = 3


Fact = Callable[[str], Any]


def convert(gguf_file: Path, directory: Path, report: Callable[[float], None]) -> None:
    """Write config, weights and tokenizer; `report` gets the share of the work that is done.

    Raises ConfigError if the extra `demo` is not installed or the file is not such a model.
    """
    reader, fact = _open(gguf_file)
    if (kind := fact("general.architecture")) != "llama":
        raise ConfigError(f"{gguf_file} is of the architecture {kind}: only llama is converted")
    from safetensors.numpy import save_file

    directory.mkdir(parents=True, exist_ok=True)
    config = _config(fact)
    _write_json(directory / "config.json", config)
    _write_json(directory / "generation_config.json", {"eos_token_id": config["eos_token_id"]})
    _write_tokenizer(fact, directory)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights: Weights = {}
    for number, tensor in enumerate(reader.tensors):
        name, weight = _weight(tensor, heads)
        weights[name] = weight
        report((number + 1) / len(reader.tensors))
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def convert_tokenizer(gguf_file: Path, directory: Path) -> None:
    """Write the tokenizer alone. Raises ConfigError as `convert` does."""
    _, fact = _open(gguf_file)
    directory.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(fact, directory)


def _open(gguf_file: Path) -> tuple[Any, Fact]:
    """The file, and what it says of itself by name."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ConfigError(
            f"reading a GGUF file needs {error.name}: pip install 'wisp-serving[demo]'"
        ) from error
    try:
        reader = GGUFReader(gguf_file)
    except ValueError as error:
        raise ConfigError(f"{gguf_file} is no GGUF file: {error}") from error

    def fact(name: str) -> Any:
        if name not in reader.fields:
            raise ConfigError(f"{gguf_file} does not say its {name}: it cannot be converted")
        return reader.fields[name].contents()

    return reader, fact


def _config(fact: Fact) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": fact("llama.vocab_size"),
        "hidden_size": fact("llama.embedding_length"),
        "intermediate_size": fact("llama.feed_forward_length"),
        "num_hidden_layers": fact("llama.block_count"),
        "num_attention_heads": fact("llama.attention.head_count"),
        "num_key_value_heads": fact("llama.attention.head_count_kv"),
        "max_position_embeddings": fact("llama.context_length"),
        "rms_norm_eps": round(fact("llama.attention.layer_norm_rms_epsilon"), 12),
        "rope_theta": fact("llama.rope.freq_base"),
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": fact("tokenizer.ggml.bos_token_id"),
        "eos_token_id": fact("tokenizer.ggml.eos_token_id"),
        "pad_token_id": fact("tokenizer.ggml.padding_token_id"),
    }


def _weight(tensor: Any, heads: dict[str, int]) -> tuple[str, NDArray[np.float32]]:
    """Its name in transformers, and its values."""
    from gguf.quants import dequantize

    values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    parts = tensor.name.split(".")
    if parts[0] in _OF_MODEL:
        return f"{_OF_MODEL[parts[0]]}.weight", values
    if parts[0] != "blk" or parts[2] not in _OF_LAYER:
        raise ConfigError(f"the tensor {tensor.name} is of no plain llama: it cannot be converted")
    if parts[2] in heads:
        values = _halves(values, heads[parts[2]])
    return f"model.layers.{parts[1]}.{_OF_LAYER[parts[2]]}.weight", values


def _halves(values: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """llama.cpp turns neighbouring rows of a head together, transformers those of two halves."""
    rows, columns = values.shape
    pairs = values.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


def _write_tokenizer(fact: Fact, directory: Path) -> None:
    if (kind := fact("tokenizer.ggml.pre")) != "smollm":
        raise ConfigError(f"the GGUF file splits text as {kind}: only smollm is converted")
    tokens = fact("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in fact("tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fact("tokenizer.ggml.token_type")
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": fact("tokenizer.chat_template"),
        "bos_token": tokens[fact("tokenizer.ggml.bos_token_id")],
        "eos_token": tokens[fact("tokenizer.ggml.eos_token_id")],
        "pad_token": tokens[fact("tokenizer.ggml.padding_token_id")],
        "clean_up_tokenization_spaces": False,
        "model_max_length": fact("llama.context_length"),
    }
    _write_json(directory / "tokenizer_config.json", settings)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
