"""CUDA graphs of whole steps, whatever drafts their requests have, and of a drafter's pieces.

Stock code rounds their sizes to multiples of the most tokens that a request has in a step, as for
steps in which all have so many. Steps of WISP have any number: graphs for more tokens than there
are cost time for nothing, so the sizes are those that were asked for.

It captures a drafter in pieces, and only along with the target's pieces. Then steps of unequal
drafts are launched piece by piece, which takes the host 13 ms for 64 layers. So with a drafter the
target's graphs are captured as if it were alone (mode FULL), and the drafter's pieces beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.config import CUDAGraphMode
from vllm.v1.attention.backend import AttentionCGSupport
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from wisp.verifier.vllm.options import WHOLE_STEPS


def install() -> None:
    """Before a model runner is made, in the process that makes it."""
    if getattr(GPUModelRunner, WHOLE_STEPS, False):
        return
    setattr(GPUModelRunner, WHOLE_STEPS, True)
    stock_check = GPUModelRunner._check_and_update_cudagraph_mode
    stock_warm_up_and_capture = GPUModelRunner._warmup_and_capture
    stock_capture = GPUModelRunner.capture_model

    def check(runner: Any, backends: Any, groups: Any, *args: Any, **more: Any) -> None:
        stock_check(runner, backends, groups, *args, **more)
        sizes = runner.vllm_config.additional_config.get(WHOLE_STEPS)
        if sizes is not None and _takes_any_step(runner, backends, groups):
            whole_steps(runner.cudagraph_dispatcher, runner.uniform_decode_query_len, sizes)

    def warm_up_and_capture(
        runner: Any, desc: Any, cudagraph_runtime_mode: CUDAGraphMode, **more: Any
    ) -> None:
        is_drafters = cudagraph_runtime_mode == CUDAGraphMode.PIECEWISE
        if is_drafters and runner.cudagraph_dispatcher.cudagraph_mode == CUDAGraphMode.FULL:
            slots = dict.fromkeys(runner.drafter._draft_attn_layer_names)
            for captures in (False, True):  # the first time it may compile something
                runner.drafter.dummy_run(
                    desc.num_tokens,
                    use_cudagraphs=captures,
                    is_graph_capturing=True,
                    slot_mappings=slots,
                )
            return
        stock_warm_up_and_capture(
            runner, desc, cudagraph_runtime_mode=cudagraph_runtime_mode, **more
        )

    def capture(runner: Any) -> Any:
        found = stock_capture(runner)
        if runner.cudagraph_dispatcher.cudagraph_mode == CUDAGraphMode.FULL:  # it has no pieces
            runner.cudagraph_dispatcher.cudagraph_keys[CUDAGraphMode.PIECEWISE].clear()
        return found

    GPUModelRunner._check_and_update_cudagraph_mode = check
    GPUModelRunner._warmup_and_capture = warm_up_and_capture
    GPUModelRunner.capture_model = capture


def whole_steps(dispatcher: Any, uniform_decode_query_len: int, sizes: Sequence[int]) -> None:
    """Of the target: graphs of whole steps with so many tokens (none: as stock code has them),
    whatever drafts its requests have. The keys of pieces stay until all is captured: by them stock
    code comes to capture the drafter's."""
    if sizes:
        dispatcher.compilation_config.cudagraph_capture_sizes = [*sizes]
    dispatcher.cudagraph_keys[CUDAGraphMode.FULL].clear()
    dispatcher.initialize_cudagraph_keys(CUDAGraphMode.FULL, uniform_decode_query_len)


def _takes_any_step(runner: Any, backends: Any, groups: Any) -> bool:
    """Graphs are of steps, and the attention's kernels can be in one of requests with unequal
    numbers of tokens."""
    return runner.cudagraph_dispatcher.cudagraph_mode.decode_mode() == CUDAGraphMode.FULL and all(
        backend.get_builder_cls().get_cudagraph_support(runner.vllm_config, group.kv_cache_spec)
        == AttentionCGSupport.ALWAYS
        for of_group, group in zip(backends, groups, strict=True)
        for backend in of_group
    )
