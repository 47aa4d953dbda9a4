"""The drafter and the tokenizer of an edge, of what its settings name."""

from __future__ import annotations

import tempfile
from pathlib import Path

from wisp.config import EdgeConfig
from wisp.edge.drafter.base import Drafter
from wisp.errors import ConfigError
from wisp.models.draft_vocabulary import match
from wisp.models.tokenizer import Tokenizer


def is_gguf(draft: Path) -> bool:
    return draft.suffix == ".gguf"


def load_tokenizer(config: EdgeConfig) -> Tokenizer:
    """The target's: of the setting, of what lies beside the drafter, or of its GGUF file.

    Raises ConfigError if there is none.
    """
    draft = config.draft
    if config.tokenizer:
        return Tokenizer(config.tokenizer)
    if not is_gguf(draft):
        return Tokenizer(draft)
    if (draft.parent / "tokenizer.json").is_file():
        return Tokenizer(draft.parent)
    if not draft.is_file():
        raise ConfigError(f"there is no file '{draft}': give a GGUF file or a directory")
    from wisp.models.public.convert import convert_tokenizer

    try:
        with tempfile.TemporaryDirectory(prefix="wisp-tokenizer-") as folder:
            directory = Path(folder) / draft.stem
            convert_tokenizer(draft, directory)
            return Tokenizer(directory)
    except ConfigError as error:
        raise ConfigError(
            f"{error}: set `tokenizer` to a Hugging Face directory with the target's"
        ) from error
    except OSError as error:
        why = f"the tokenizer of {draft} cannot be unpacked: {error.strerror}"
        raise ConfigError(why) from error


def load_drafter(config: EdgeConfig, tokenizer: Tokenizer) -> Drafter:
    """Of the engine asked for, or llama.cpp for a GGUF file and else transformers.

    Raises ConfigError if it cannot be loaded.
    """
    of_file = is_gguf(config.draft)
    engine = config.engine or ("llama" if of_file else "transformers")
    if of_file != (engine == "llama"):
        takes = "a GGUF file" if engine == "llama" else "a Hugging Face directory"
        raise ConfigError(f"the engine '{engine}' drafts with {takes}, not with {config.draft}")
    if config.drafter.options and engine != "vllm":
        raise ConfigError("'drafter.options' are engine arguments of vLLM: set 'engine' to vllm")
    if engine == "llama":
        return _llama(config, tokenizer)
    return _vllm(config) if engine == "vllm" else _transformers(config)


def _llama(config: EdgeConfig, tokenizer: Tokenizer) -> Drafter:
    from wisp.edge.drafter.llama import LlamaDrafter

    options = config.drafter
    llama = LlamaDrafter(
        config.draft,
        max_sessions=options.max_sessions,
        max_branches=options.max_branches,
        max_model_len=options.max_model_len,
        device=options.device,
        num_threads=options.num_threads,
        host_kv_bytes=int(options.host_kv_gib * 2**30),
    )
    vocabulary = match(llama.tokens(), tokenizer.token_ids(), config.draft.name)
    llama.speak(vocabulary, llama.num_logits)
    return llama


def _transformers(config: EdgeConfig) -> Drafter:
    from wisp.edge.drafter.transformers import TransformersDrafter

    options = config.drafter
    return TransformersDrafter(
        config.draft,
        max_sessions=options.max_sessions,
        max_branches=options.max_branches,
        max_model_len=options.max_model_len,
        device=options.device,
        dtype=options.dtype or ("int8" if options.device == "cpu" else None),
        num_threads=options.num_threads or 1,
        host_kv_bytes=int(options.host_kv_gib * 2**30),
    )


def _vllm(config: EdgeConfig) -> Drafter:
    from wisp.edge.drafter.vllm import VllmDrafter

    options = config.drafter
    return VllmDrafter(
        config.draft,
        max_sessions=options.max_sessions,
        max_branches=options.max_branches,
        max_model_len=options.max_model_len,
        memory_share=options.memory_share,
        device=options.device,
        dtype=options.dtype,
        options=options.options,
        log_level=config.log_level,
    )
