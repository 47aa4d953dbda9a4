"""Any causal language model of Hugging Face over a slot KV cache, with real batching."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from wisp.errors import ConfigError
from wisp.models import attention
from wisp.models.layers import lighten, replace_layers
from wisp.models.layout import KEYS, QUERIES, ROWS, Item, Shape, lay_out, round_up

__all__ = ["Item", "SlotModel"]

INT8 = "int8"

# The queries of a tile where the device is a GPU. Chosen: its matrix kernels usually work on tiles
# of as many rows.
_GPU_QUERIES = 64


class SlotModel:
    """Holds one sequence for each slot; a forward computes tokens of any number of them.

    What lies in a slot beyond the tokens of the last forward is simply overwritten by the next one,
    so going back needs no call. On the CPU in float32 the logits of a token are the same bits
    however its sequence was cut into forwards and whatever else was in them.
    """

    def __init__(
        self,
        directory: str | Path,
        num_slots: int,
        max_len: int | None = None,
        device: str = "cpu",
        dtype: torch.dtype | str | None = None,
        num_threads: int | None = None,
        exact: bool = True,
    ) -> None:
        """`dtype` may be `int8`: linear layers with weights of 8 bits, on a CPU.

        `exact` False: no tiles of rows, for a drafter, whose bits decide nothing: on a CPU its
        steps take two thirds of the time (docs/measurements/smollm2.md).
        """
        self._int8 = dtype == INT8
        if self._int8 and (exact or device != "cpu"):
            raise ConfigError("int8 is for drafters on a CPU: give float32, bfloat16 or float16")
        self._exact = exact
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self.device = torch.device(device)
        self.dtype = _dtype(None if self._int8 else dtype, self.device)
        self.num_slots = num_slots
        self.config = _load_config(Path(directory))
        self.max_len = max_len or _positions(self.config, directory)
        self._model = self._load(Path(directory))
        heads = self.config.num_attention_heads
        group: int = heads // (getattr(self.config, "num_key_value_heads", None) or heads)
        self._shape = _shape(self.max_len, group, self.device)
        self._cache = attention.SlotCache(num_slots, self._shape)
        self._warm_up(directory)

    def _load(self, directory: Path) -> Any:
        transformers_logging.disable_progress_bar()  # a server's log is no terminal
        try:
            model = AutoModelForCausalLM.from_pretrained(
                directory,
                config=self.config,
                dtype=self.dtype,
                attn_implementation=attention.NAME,
                local_files_only=True,
                use_safetensors=True,  # nothing that can run code
                trust_remote_code=False,  # the library would ask whoever sits at the terminal
            )
        except (OSError, ValueError) as error:
            raise ConfigError(f"the model in {directory} cannot be loaded: {error}") from error
        if self.device.type == "cpu" and self._exact:
            replace_layers(model)
        if self._int8:
            lighten(model)
        return model.to(self.device).eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(self, items: Sequence[Item]) -> Tensor:
        """Logits [rows, vocab] of the last `num_logits` tokens of each item, in order."""
        self._check(items)
        layout = lay_out(
            items,
            self._shape,
            dtype=self.dtype,
            device=self.device,
            rows_of_tile=ROWS if self._exact else 1,
        )
        self._cache.batch = layout.batch
        output = self._model(
            layout.input_ids,
            position_ids=layout.position_ids,
            use_cache=False,
            logits_to_keep=layout.logit_rows,
            wisp_slots=self._cache,
        )
        self._cache.batch = None
        logits: Tensor = output.logits[0, : layout.num_logits]
        return logits

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Keys and values of the positions [start, end) of one slot, into another."""
        self._cache.copy(source, target, start, end)

    def save(self, slot: int, end: int) -> list[Tensor]:
        """Keys and values of a slot's positions [0, end), in host memory."""
        return self._cache.save(slot, end)

    def restore(self, slot: int, saved: Sequence[Tensor]) -> None:
        """What `save` returned, into any slot."""
        self._cache.restore(slot, saved)

    @property
    def kv_bytes(self) -> int:
        """Of one token."""
        return self._cache.row_bytes

    def _check(self, items: Sequence[Item]) -> None:
        if len({item.slot for item in items}) < len(items) or not items:
            raise ValueError("a forward takes each slot at most once, and at least one")
        for item in items:
            if not item.tokens or not 0 <= item.num_logits <= len(item.tokens):
                raise ValueError("an item holds tokens, and at most as many logits are asked for")
            if not 0 <= item.slot < self.num_slots:
                raise ValueError(f"slot {item.slot} is not one of {self.num_slots}")
            if item.start < 0 or item.start + len(item.tokens) > self.max_len:
                raise ValueError(f"slot {item.slot} holds {self.max_len} tokens, not more")

    def _warm_up(self, directory: str | Path) -> None:
        """Run one token: this makes the cache, and shows whether the model can be run this way."""
        cannot = f"the model in {directory} cannot be run over slots: "
        try:
            self.vocab_size: int = self.forward([Item(0, 0, [0], 1)]).shape[1]
        except Exception as error:
            raise ConfigError(f"{cannot}{error}") from error
        num_layers = self.config.num_hidden_layers
        if self._cache.num_layers != num_layers:
            raise ConfigError(
                f"{cannot}{self._cache.num_layers} of its {num_layers} layers are plain attention"
            )
        if self._cache.unsupported:
            names = ", ".join(sorted(self._cache.unsupported))
            raise ConfigError(f"{cannot}its attention needs {names}")
        window = min(self._cache.sliding_windows, default=self.max_len)
        if window < self.max_len:
            raise ConfigError(
                f"{cannot}its attention sees {window} tokens only: set the longest sequence to that"
            )


def _shape(max_len: int, group: int, device: torch.device) -> Shape:
    """On a GPU a launch costs more than what it computes: few large tiles, and a slot at once."""
    capacity = round_up(max_len, KEYS)
    if device.type == "cpu":
        return Shape(capacity, group, QUERIES, KEYS)
    return Shape(capacity, group, _GPU_QUERIES, capacity)


def _dtype(asked: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    if asked is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype = getattr(torch, asked, None) if isinstance(asked, str) else asked
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(f"{asked} is not a dtype of torch: give float32, bfloat16 or float16")
    return dtype


def _load_config(directory: Path) -> Any:
    if not (directory / "config.json").is_file():
        raise ConfigError(f"there is no model in {directory}: give a directory with a config.json")
    try:
        config = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"the config.json in {directory} cannot be read: {error}") from error
    if config.is_encoder_decoder:
        raise ConfigError(f"the model in {directory} has an encoder: only decoders can be served")
    return config


def _positions(config: Any, directory: str | Path) -> int:
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is None:
        raise ConfigError(f"the model in {directory} names no longest sequence: set one")
    return positions
