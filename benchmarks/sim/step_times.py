"""The truth about the target in a simulation: how long a step takes. Estimators never see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from wisp.estimator.shape import StepShape
from wisp.estimator.step_time import StepTimeEstimator


class Gpu(NamedTuple):
    """Data-sheet figures, and what share of them a step reaches."""

    name: str
    memory_bytes: float
    bytes_per_s: float
    flops: float  # dense, bf16
    bytes_share: float
    flops_share: float


# Of the H200 a step of a 32B model reaches 0.67 of the bandwidth (20 ms for 64 GB) and 0.63 of the
# arithmetic (0.105 ms a token), as measured; the A100 is assumed to reach the same shares.
H200 = Gpu("H200", 141e9, 4.8e12, 989e12, 0.67, 0.63)
# Of the H100 a plain step of a 32B model takes 25.5 ms with 8 sessions, 26.9 with 24 and 28.1 with
# 48, as measured (plain vLLM 0.26): 0.76 of the bandwidth. Its arithmetic is that of the H200.
H100 = Gpu("H100", 80e9, 3.35e12, 989e12, 0.76, 0.63)
A100 = Gpu("A100-80GB", 80e9, 2.039e12, 312e12, 0.67, 0.63)


class Shape(NamedTuple):
    """Of a dense decoder in bf16."""

    name: str
    num_parameters: float
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def weight_bytes(self) -> float:
        return 2.0 * self.num_parameters

    @property
    def kv_bytes(self) -> int:
        """Of one token: keys and values of 2 bytes."""
        return self.num_layers * self.num_kv_heads * self.head_dim * 2 * 2


QWEN3_32B = Shape("Qwen3-32B", 32e9, 64, 64, 8, 128)
QWEN3_8B = Shape("Qwen3-8B", 8e9, 36, 32, 8, 128)
LLAMA_70B = Shape("Llama-3.1-70B", 70.6e9, 80, 64, 8, 128)


class Host(NamedTuple):
    """Seconds that the host takes for a step; where steps overlap a running one hides them."""

    launch_s: float  # to decide and launch
    launch_seat_s: float  # more for each seat
    publish_s: float  # to take the outcomes in and publish them
    publish_seat_s: float  # more for each seat
    message_s: float  # to take in a message


# As measured on an H200 at 24, 64 and 128 sessions with drafts for all, in parts
# (results/h200_32b_host_gap.csv): 2.3, 3.1 and 5.2 ms, and 1.2, 2.4 and 5.0 ms.
HOST = Host(1.75e-3, 26e-6, 0.4e-3, 31e-6, 5e-6)
NO_HOST = Host(0.0, 0.0, 0.0, 0.0, 0.0)


class StepTimes(Protocol):
    """What the target of a simulation takes for its steps."""

    @property
    def noise(self) -> float:
        """Standard deviation of the logarithm."""

    @property
    def about(self) -> dict[str, Any]:
        """For whoever reads the results."""

    def time_s(self, shape: StepShape) -> float: ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Fitted:
    """The times that a server learned of its own target."""

    estimator: StepTimeEstimator
    noise: float = 0.05

    @property
    def about(self) -> dict[str, Any]:
        return {"steps": self.estimator.num_observed}

    def time_s(self, shape: StepShape) -> float:
        return self.estimator.predict_s(shape)


class LinearTimes(NamedTuple):
    """T = max(floor, token * tokens) + seat * seats + context * context + product * product."""

    floor_s: float
    token_s: float
    seat_s: float
    context_s: float  # of each token whose KV is read
    product_s: float  # of each (new token, token before it) of a prefill chunk
    noise: float = 0.03

    @property
    def about(self) -> dict[str, Any]:
        return {
            "floor_ms": round(1e3 * self.floor_s, 2),
            "token_ms": round(1e3 * self.token_s, 3),
            "seat_ms": round(1e3 * self.seat_s, 3),
        }

    def time_s(self, shape: StepShape) -> float:
        time_s = max(self.floor_s, self.token_s * shape.num_tokens)
        time_s += self.seat_s * shape.num_seats + self.context_s * shape.num_context
        return time_s + self.product_s * shape.prefill_product


def roofline(gpu: Gpu, model: Shape, *, seat_s: float = 45e-6) -> LinearTimes:
    """Weights are read once a step, whatever it holds; then arithmetic takes over.

    `seat_s`: what a session costs the host beside its tokens, as measured on an H200 host.
    """
    bytes_per_s = gpu.bytes_per_s * gpu.bytes_share
    flops = gpu.flops * gpu.flops_share
    attention_flops = 4.0 * model.num_layers * model.num_heads * model.head_dim
    return LinearTimes(
        floor_s=model.weight_bytes / bytes_per_s,
        token_s=2.0 * model.num_parameters / flops,
        seat_s=seat_s,
        context_s=model.kv_bytes / bytes_per_s,
        product_s=attention_flops / flops,
    )


def implied_by_paper(gpu: Gpu, model: Shape, *, session_s: float = 3.07e-3) -> LinearTimes:
    """What the paper's own figures for centralised serving say a step must take.

    Its capacity times the rate is 328, 324 and 320 tokens/s at 8, 6 and 4 tokens/s: a step that
    decodes a token for each of n sessions takes 3.07 ms * n, without a floor. How much of that is
    the token's and how much the session's (a request of its own, the read of its cache, a floor
    shared by few) the figures do not tell; here the token's is the GPU's arithmetic.
    """
    step_times = roofline(gpu, model)
    seat_s = session_s - step_times.token_s
    return LinearTimes(0.0, step_times.token_s, seat_s, 0.0, step_times.product_s, step_times.noise)
