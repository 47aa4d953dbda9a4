"""The drafter of a site with a GPU: vLLM, in a process of its own, for many users at once.

Which slot holds what of whose text is known here; the slots' tokens go to the process as they are
drafted, and rankings come back. Conversations that come back are found in vLLM's prefix cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wisp.core.extension import Extension, Fork
from wisp.core.request import Sampling
from wisp.edge.drafter.base import DraftJob, Proposal
from wisp.edge.drafter.cached import SequencesDrafter
from wisp.edge.drafter.draft_process import PATIENCE_S, DraftProcess, DraftSettings
from wisp.edge.drafter.propose import propose_ranked
from wisp.edge.drafter.sequences import Cached, Sequences
from wisp.errors import ConfigError

# What a job without a sampling asks for, by definition of `DraftJob`: the argmax.
_GREEDY = Sampling(max_tokens=1, temperature=0.0, seed=0)


class VllmDrafter(SequencesDrafter):
    """Implements `wisp.edge.drafter.base.MortalDrafter`, on vLLM in a process of its own."""

    def __init__(
        self,
        directory: str | Path,
        *,
        max_sessions: int,
        max_branches: int = 1,
        max_model_len: int | None = None,
        memory_share: float = 0.5,
        device: str = "cpu",
        dtype: str | None = None,
        options: dict[str, Any] | None = None,
        log_level: str = "INFO",
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Raises ConfigError if vLLM is not installed or cannot serve the model."""
        directory = Path(directory)
        if not (directory / "config.json").is_file():
            raise ConfigError(
                f"there is no model in '{directory}': the engine 'vllm' drafts with a Hugging Face "
                "directory"
            )
        if dtype == "int8":
            raise ConfigError("the engine 'vllm' has no drafter.dtype 'int8': choose bfloat16")
        self.max_branches = max_branches
        self._ended: list[int] = []  # since the last step
        self._forks: list[Fork] = []
        self._sequences = Sequences(max_sessions, max_branches - 1, self._fork)
        self.process = DraftProcess(
            DraftSettings(
                directory,
                self._sequences.num,
                max_model_len,
                memory_share,
                dtype,
                device,
                options or {},
                log_level,
            ),
            patience_s,
        )
        self._know_model()

    @property
    def on_end(self) -> Callable[[], None]:
        return self.process.on_end

    @on_end.setter
    def on_end(self, called: Callable[[], None]) -> None:
        self.process.on_end = called

    @property
    def ended(self) -> str | None:
        return self.process.ended

    def restart(self) -> None:
        """What is open is drafted for again, of whole texts: the new process knows none of them."""
        self.process.start()
        self._ended, self._forks = [], []
        self._sequences.forget()
        self._know_model()

    def _know_model(self) -> None:
        self.max_model_len = self.process.max_model_len
        self._vocabulary = self.process.vocabulary
        self.vocab_size = self._vocabulary.bound(self.process.num_logits)

    def close(self, key: int) -> None:
        self._ended += self._sequences.indexes(key)
        super().close(key)

    def _proposals(self, assigned: Sequence[Cached], jobs: Sequence[DraftJob]) -> list[Proposal]:
        extensions = []
        for cached, job in zip(assigned, jobs, strict=True):
            start, sampling = len(cached.held), job.sampling or _GREEDY
            own = list(self._vocabulary.own(job.tokens[start:]))
            extensions.append(
                Extension(cached.index, start, own, sampling.seed, sampling.temperature)
            )
        ended, self._ended = self._ended, []
        forks, self._forks = self._forks, []
        return propose_ranked(self.process.extend(ended, forks, extensions))

    def shutdown(self) -> None:
        self.process.stop()

    def _fork(self, source: int, target: int, start: int, end: int) -> None:
        self._forks.append(Fork(source, target, end))
