"""What is added to vLLM's workers: what the engine calls in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from vllm.distributed.parallel_state import get_pp_group
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from wisp.verifier.vllm import graphs
from wisp.verifier.vllm.host_kv import HostKv, Moves
from wisp.verifier.vllm.launched import Collected
from wisp.verifier.vllm.sampler import Chooser


class _NoDrafter:
    """Of the pipeline stages but the last: 0.32 asks all of them for theirs."""

    def load_model(self, *args: Any) -> None:
        return


GPUModelRunner.drafter = _NoDrafter()
graphs.install()


class WorkerExtension:
    """Mixed into vLLM's worker (`worker_extension_cls`); called by `collective_rpc`."""

    model_runner: Any

    def wisp_install(self) -> None:
        self.wisp_chooser = Chooser(self.model_runner)

    def wisp_collect(self) -> Collected | None:
        """None from a worker of another than the last pipeline stage, which chooses nothing."""
        return self.wisp_chooser.collect() if get_pp_group().is_last_rank else None

    def wisp_tell(self, tokens: Mapping[str, list[int]]) -> None:
        """What the last pipeline stage chose: stock code tells the others one token of a step."""
        if not get_pp_group().is_last_rank:
            self.wisp_chooser.append(tokens)

    def wisp_block_bytes(self) -> int:
        """Of a KV block, in all layers of this worker."""
        return sum(cache.nbytes for cache in self._kv_caches) // self._num_blocks

    def wisp_parks(self, num_slots: int) -> None:
        self.wisp_host_kv = HostKv(self._kv_caches, self._num_blocks, num_slots)

    def wisp_move(self, out: Moves, back: Moves, after_step: bool) -> None:
        self.wisp_host_kv.move(out, back, after_step=after_step)

    @property
    def _kv_caches(self) -> Sequence[Tensor]:
        caches: Sequence[Tensor] = self.model_runner.kv_caches
        return caches

    @property
    def _num_blocks(self) -> int:
        return int(self.model_runner.kv_cache_config.num_blocks)

    def wisp_forget(self) -> None:
        self.wisp_chooser.launched.clear()
