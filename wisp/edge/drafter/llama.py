"""The drafter that runs a GGUF file on llama.cpp: what devices without PyTorch draft with.

All sequences share one context and its cells. Going back removes the end of a sequence; a fork
shares what its generation has computed already, and costs no more than its own tokens.
"""

from __future__ import annotations

import ctypes
import logging
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wisp.edge.drafter.cached import CachedDrafter, Pending
from wisp.edge.drafter.sequences import Cached
from wisp.errors import ConfigError
from wisp.models.draft_vocabulary import Vocabulary

log = logging.getLogger(__name__)

# Tokens of one call of llama.cpp: the standard size of its own micro-batches.
BATCH = 512
# The longest sequence where nobody says so: memory is taken for all of them at the start. Chosen: a
# conversation of some turns, in a few MiB for drafters of a few layers.
MAX_MODEL_LEN = 4096
# Steps that are timed for each number of threads, and how much faster more threads must be to be
# taken. Chosen: a few milliseconds of timing, and cores are left to others where they bring little.
_TIMED_STEPS, _FASTER = 12, 0.85


@dataclass(slots=True)
class _Row:
    """One token of a call."""

    sequence: int
    position: int
    token: int
    wanted: bool  # its logits


class LlamaDrafter(CachedDrafter):
    """Implements `wisp.edge.drafter.base.Drafter`."""

    def __init__(
        self,
        file: str | Path,
        *,
        max_sessions: int,
        max_branches: int = 1,
        max_model_len: int | None = None,
        device: str = "cpu",
        num_threads: int | None = None,
        host_kv_bytes: int = 0,
    ) -> None:
        """`device` is cpu, or another for what the binding was built for: Metal, CUDA, Vulkan.

        `num_threads` None is chosen by a short timing. Raises ConfigError if the binding is not
        installed or the file cannot be loaded.
        """
        super().__init__(max_sessions, max_branches, self._copy, self, host_kv_bytes)
        self._lib = _library()
        self._model = self._load(Path(file), device)
        self._vocab: Any = self._lib.llama_model_get_vocab(self._model)
        self.num_logits = int(self._lib.llama_vocab_n_tokens(self._vocab))
        self.speak(Vocabulary(), self.num_logits)
        trained = int(self._lib.llama_model_n_ctx_train(self._model))
        self.max_model_len = min(trained, max_model_len or MAX_MODEL_LEN)
        self._context = self._new_context(file, num_threads or 1)
        self._memory = self._lib.llama_get_memory(self._context)
        self._batch = self._lib.llama_batch_init(BATCH, 0, 1)
        self.num_threads = num_threads or self._choose_threads()

    def tokens(self) -> list[str]:
        """The texts of its tokens as its file has them, in the order of their ids."""
        text = self._lib.llama_vocab_get_text
        return [text(self._vocab, number).decode() for number in range(self.num_logits)]

    def _logits(self, pending: Pending) -> NDArray[np.float32]:
        return self._compute(
            [row for cached, tokens in pending for row in self._missing(cached, tokens)]
        )

    def shutdown(self) -> None:
        """Give its memory back; it cannot be used any more."""
        self._lib.llama_batch_free(self._batch)
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)

    def _missing(self, cached: Cached, tokens: Sequence[int]) -> Iterator[_Row]:
        """What is to be computed of a sequence, behind what it holds and nothing else."""
        held = len(cached.held)
        self._lib.llama_memory_seq_rm(self._memory, cached.index, held, -1)
        for offset, token in enumerate(self.vocabulary.own(tokens[held:])):
            position = held + offset
            yield _Row(cached.index, position, token, position == len(tokens) - 1)

    def _copy(self, source: int, target: int, start: int, end: int) -> None:
        """Share cells: nothing is moved, and the tokens take no further memory."""
        self._lib.llama_memory_seq_rm(self._memory, target, start, -1)
        self._lib.llama_memory_seq_cp(self._memory, source, target, start, end)

    def num_bytes(self, slot: int, num_tokens: int) -> int:
        """Of all that a sequence holds, be it more than these tokens."""
        return int(self._lib.llama_state_seq_get_size(self._context, slot))

    def save(self, slot: int, num_tokens: int) -> Any:
        size = self.num_bytes(slot, num_tokens)
        saved = (ctypes.c_uint8 * size)()
        self._lib.llama_state_seq_get_data(self._context, saved, size, slot)
        return saved

    def restore(self, slot: int, saved: Any) -> bool:
        """False if so many cells are not free."""
        self._lib.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return bool(self._lib.llama_state_seq_set_data(self._context, saved, len(saved), slot))

    def _compute(self, rows: Sequence[_Row]) -> NDArray[np.float32]:
        """Logits [wanted rows, vocab] in their order. Raises RuntimeError if llama.cpp refuses."""
        found = []
        for first in range(0, len(rows), BATCH):
            part = rows[first : first + BATCH]
            self._fill(part)
            if code := self._lib.llama_decode(self._context, self._batch):
                raise RuntimeError(f"llama.cpp cannot compute {len(part)} tokens: code {code}")
            if num := sum(row.wanted for row in part):
                logits = self._lib.llama_get_logits(self._context)
                # A copy: the next call overwrites it.
                found.append(np.ctypeslib.as_array(logits, (num, self.num_logits)).copy())
        return np.concatenate(found)

    def _fill(self, rows: Sequence[_Row]) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for place, row in enumerate(rows):
            batch.token[place] = row.token
            batch.pos[place] = row.position
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = row.sequence
            batch.logits[place] = row.wanted

    def _load(self, file: Path, device: str) -> Any:
        if not file.is_file():
            raise ConfigError(f"there is no file '{file}': give a GGUF file or a directory")
        params = self._lib.llama_model_default_params()
        params.n_gpu_layers = 0 if device == "cpu" else -1
        if device != "cpu" and not self._lib.llama_supports_gpu_offload():
            raise ConfigError(
                f"llama-cpp-python was built for the CPU: '{device}' needs another build of it"
            )
        model = self._lib.llama_model_load_from_file(str(file).encode(), params)
        if not model:
            raise ConfigError(f"llama.cpp cannot load {file}: give the GGUF file of a model")
        return model

    def _new_context(self, file: str | Path, num_threads: int) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx = self._sequences.num * self.max_model_len
        params.n_batch = params.n_ubatch = BATCH
        params.n_seq_max = self._sequences.num
        params.n_threads = params.n_threads_batch = num_threads
        params.kv_unified = True  # the prefix of a sequence can be shared in one pool of cells only
        params.no_perf = True
        context = self._lib.llama_init_from_model(self._model, params)
        if not context:
            raise ConfigError(
                f"llama.cpp has no room for {self._sequences.num} sequences of "
                f"{self.max_model_len} tokens of {file}: set drafter.max_model_len lower"
            )
        return context

    def _choose_threads(self) -> int:
        """The fewest threads that are about as fast as any: a spinning one takes a whole core."""
        best, best_s = 1, self.time_step(1)
        number = 2
        while number <= (os.cpu_count() or 1):
            step_s = self.time_step(number)
            if step_s < _FASTER * best_s:
                best, best_s = number, step_s
            number *= 2
        self._lib.llama_set_n_threads(self._context, best, best)
        return best

    def time_step(self, num_threads: int, batch: int = 1, num_steps: int = _TIMED_STEPS) -> float:
        """Seconds of a step of one token for each of `batch` sequences: the median of some."""
        self._lib.llama_set_n_threads(self._context, num_threads, num_threads)
        times = []
        for position in range(num_steps):
            rows = [_Row(index, position, 0, True) for index in range(batch)]
            start_s = time.perf_counter()
            self._compute(rows)
            times.append(time.perf_counter() - start_s)
        for index in range(batch):
            self._lib.llama_memory_seq_rm(self._memory, index, -1, -1)
        return statistics.median(times)


def _to_log(level: int, text: bytes, _: Any) -> None:
    """llama.cpp says a hundred lines when it loads a model: they are for debugging."""
    log.debug("llama.cpp: %s", text.decode(errors="replace").rstrip())


# Kept for as long as the library may call it.
_LOG_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_to_log)


def _library() -> Any:
    try:
        from llama_cpp import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"a GGUF file needs llama.cpp: pip install 'wisp-serving[llama]' ({error})"
        ) from error
    llama_cpp.llama_log_set(_LOG_CALLBACK, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp
