"""A drafter of the architecture qwen3 as a GGUF file, for edges that run llama.cpp."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from wisp.errors import ConfigError

Kind = Literal["F32", "F16", "Q8_0", "Q4_0"]

# What transformers calls the tensors of a layer, and what llama.cpp calls them.
_OF_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OF_MODEL = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}


def export(directory: Path, file: Path, kind: Kind) -> None:
    """Write the drafter in `directory` to `file`, its matrices as `kind`.

    The embedding, which is the head, too, is Q8_0 at the least: it decides which token is first.
    Raises ConfigError if the extra `llama` is not installed or the model is of another kind.
    """
    try:
        import gguf
        from safetensors import safe_open
    except ImportError as error:
        raise ConfigError(
            f"writing a GGUF file needs {error.name}: pip install 'wisp-serving[llama]'"
        ) from error
    config = json.loads((directory / "config.json").read_text())
    if config["model_type"] != "qwen3" or not config["tie_word_embeddings"]:
        raise ConfigError(f"{directory} holds no qwen3 with tied embeddings: it is not exported")
    writer = gguf.GGUFWriter(file, "qwen3")
    writer.add_name(directory.name)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    _add_tokenizer(writer, directory, config)
    with safe_open(directory / "model.safetensors", framework="pt") as weights:
        for name, values in _tensors(weights):
            chosen = gguf.GGMLQuantizationType[_kind_of(name, values, kind)]
            data = gguf.quants.quantize(values, chosen)
            writer.add_tensor(name, data, raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(weights: Any) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for name in weights.keys():  # noqa: SIM118 - it is no dictionary
        stem = name.removesuffix(".weight")
        if stem == "lm_head":
            continue  # tied
        values = weights.get_tensor(name).float().numpy()
        if stem in _OF_MODEL:
            yield f"{_OF_MODEL[stem]}.weight", values
        else:
            _, _, number, rest = stem.split(".", 3)
            yield f"blk.{number}.{_OF_LAYER[rest]}.weight", values


def _kind_of(name: str, values: NDArray[np.float32], kind: Kind) -> Kind:
    if values.ndim == 1:
        return "F32"
    return "Q8_0" if kind == "Q4_0" and name == "token_embd.weight" else kind


def _add_tokenizer(writer: Any, directory: Path, config: dict[str, Any]) -> None:
    import gguf

    from wisp.models.draft_vocabulary import FILE

    whole = json.loads((directory / "tokenizer.json").read_text())
    texts = {number: token for token, number in whole["model"]["vocab"].items()}
    special = {added["id"]: added["content"] for added in whole["added_tokens"]}
    texts |= special
    file = directory / FILE
    ids = json.loads(file.read_text()) if file.is_file() else range(config["vocab_size"])
    tokens = [texts.get(number, f"[PAD{number}]") for number in ids]
    kinds = [
        gguf.TokenType.CONTROL
        if number in special
        else gguf.TokenType.NORMAL
        if number in texts
        else gguf.TokenType.UNUSED
        for number in ids
    ]
    known = set(tokens)
    pairs = whole["model"]["merges"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]
    # llama.cpp needs some to load a file; a drafter is given tokens and never makes them of text.
    merges = [m for m in merges if known.issuperset(m.split(" ")) and m.replace(" ", "") in known]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre(whole))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    own = {number: place for place, number in enumerate(ids)}
    end = config["eos_token_id"]
    writer.add_eos_token_id(own[end if isinstance(end, int) else end[0]])
    writer.add_add_bos_token(False)


def _pre(whole: dict[str, Any]) -> str:
    """What llama.cpp calls the way to split text; both of ours are of well-known families."""
    steps = whole["pre_tokenizer"].get("pretokenizers", [whole["pre_tokenizer"]])
    return "smollm" if steps[0]["type"] == "Digits" else "qwen2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="the drafter: a Hugging Face directory")
    parser.add_argument("file", type=Path, help="the GGUF file to write")
    parser.add_argument("--kind", choices=get_args(Kind), default="Q8_0")
    args = parser.parse_args()
    export(args.directory, args.file, args.kind)


if __name__ == "__main__":
    main()
