"""What a server says of itself at /v1/stats: the JSON that `wisp top` and others draw from.

Fields are only ever added. The sliding window is the last 10 seconds; null stands for the unknown.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class BatchStats(Struct, frozen=True, kw_only=True):
    """Of the steps in the sliding window: means over them."""

    steps_per_s: float
    busy_share: float  # of the time, inside the verifier
    step_time_s: float
    num_sessions: float
    num_tokens: float  # of which:
    num_prefill: float
    num_drafted: dict[str, float]  # draft tokens by their source: edge, ngram, own
    num_plain: float  # the last committed token of each session that decodes


class KvStats(Struct, frozen=True, kw_only=True):
    """Where the KV of sessions is, and tokens a second of it that moved in the sliding window."""

    num_parked: int  # sessions, after the last step
    num_waiting: int  # sessions that have none, nor a token computed
    parked_per_s: float  # that went to host memory
    loaded_per_s: float  # that came back
    evicted_per_s: float  # that were given up, to be computed again
    late_loads_per_s: float  # sessions whose next token was late when they came back


class EstimatorStats(Struct, frozen=True, kw_only=True):
    """How well the step times in the sliding window were predicted."""

    error_ratio: float  # mean of |measured / predicted - 1|
    over_upper_share: float  # of steps that exceeded their 95 % bound
    drift: float  # an alarm above 3


class ClassStats(Struct, frozen=True, kw_only=True):
    """One SLO class; "custom" is for requests with numbers of their own."""

    name: str
    tokens_per_s: float | None  # promised; null for "custom"
    first_token_s: float | None
    priority: int
    num_sessions: int
    committed_per_s: float  # in the sliding window
    goodput_per_s: float  # of these, in time
    num_tokens: int  # since the start
    num_in_time: int
    num_ended: int  # sessions that got tokens, since the start
    num_first_token_attained: int
    num_rate_attained: int
    num_shed: int
    window: float | None  # mean directive of the sessions with an edge


class DeviceStats(Struct, frozen=True, kw_only=True):
    """One edge, by the name that it gives; known for a minute after its last session."""

    name: str
    num_sessions: int
    idle_s: float  # since its last verdict
    committed_per_s: float
    acceptance: float | None
    coverage: float | None = None  # of rejections in the sliding window, those that a fork covered
    round_trip_s: float | None
    window: float | None


class SessionStats(Struct, frozen=True, kw_only=True):
    id: int
    device: str | None  # null: no edge
    slo_class: str
    priority: int
    state: Literal["prefill", "decode", "parked"]  # parked: its KV is in host memory
    age_s: float
    num_output: int
    promised_per_s: float
    committed_per_s: float  # in the sliding window
    share_in_time: float | None
    slack_s: float  # until its next token is due
    acceptance: float | None
    window: int
    threshold: float
    num_buffered: int
    round_trip_s: float | None
    draft_time_s: float | None


class Stats(Struct, frozen=True, kw_only=True):
    version: Literal[1] = 1
    model: str
    exact: bool | None = None  # false: texts may differ in near-ties; null: not looked at
    policy: str
    uptime_s: float
    max_sessions: int
    num_sessions: int
    num_with_edge: int  # of these
    num_parked: int = 0  # of these, with their KV in host memory
    committed_per_s: float  # in the sliding window, all classes
    goodput_per_s: float
    marginal_cost: float | None  # of a draft token in committed tokens, where the policy has one
    interference: float | None  # step time over what its mean seat would take alone
    batch: BatchStats | None  # null: no step in 10 s
    kv: KvStats | None = None  # null: no step in 10 s
    estimator: EstimatorStats | None
    classes: list[ClassStats]
    devices: list[DeviceStats]
    sessions: list[SessionStats]  # left out with ?sessions=0
