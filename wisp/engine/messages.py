"""What the server's front and its engine process say to each other (ZeroMQ, msgpack)."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from wisp.core.drafts import DraftBlock, DraftCounts, Source, Verdict
from wisp.core.request import Request
from wisp.core.slo import Slo
from wisp.scheduler.tuning import PolicyChoice
from wisp.verifier.base import Facts

ErrorKind = Literal["invalid", "protocol", "overloaded", "shed", "internal"]


class Open(Struct, frozen=True, tag=True, kw_only=True):
    """Begin a session: a request that the service has checked, and what it decided on it."""

    session_id: int
    request: Request
    slo: Slo  # what it is promised
    adapter: str | None = None  # of the target, that chooses its tokens; None: the target alone
    has_edge: bool = False  # one that may draft for it
    owner: str = ""  # whose fair share of slots and time it is


class Draft(Struct, frozen=True, tag=True):
    session_id: int
    block: DraftBlock
    arrived_s: float  # on the monotonic clock that both processes share


class Close(Struct, frozen=True, tag=True):
    """The caller has gone; closing a session that has ended does nothing."""

    session_id: int


class Hold(Struct, frozen=True, tag=True):
    """Its reader does not keep up: decode nothing more for it until it does."""

    session_id: int
    held: bool


class Shutdown(Struct, frozen=True, tag=True):
    """Finish nothing more; leave."""


class TakeSnapshot(Struct, frozen=True, tag=True):
    """Answer with a Snapshot; for people, at most once a second."""


class Ping(Struct, frozen=True, tag=True):
    """Answer, if you can."""


class SwitchPolicy(Struct, frozen=True, tag=True):
    """Schedule by another policy from now on; the sessions go on."""

    choice: PolicyChoice


ToEngine = Open | Draft | Close | Hold | Shutdown | TakeSnapshot | SwitchPolicy | Ping


class Ready(Struct, frozen=True, tag=True):
    """The target is loaded."""

    facts: Facts


class Forecast(Struct, frozen=True):
    """What the estimator said of a step before it was taken."""

    expected_s: float  # the time that such a step takes in the mean
    upper_s: float  # the time that 95 % of such steps do not exceed
    drift: float  # the estimator's recent error in units of its long-run one
    alone_s: float  # the time of a step that its mean seat has for itself

    def error(self, step_time_s: float) -> float:
        """Of the expectation, relative to it."""
        return abs(step_time_s / self.expected_s - 1.0)


class KvReport(Struct, frozen=True):
    """Where the KV of sessions is, and what became of it since the report before."""

    num_parked: int = 0  # sessions whose KV is in host memory
    num_waiting: int = 0  # sessions that have none, nor a token computed
    num_parked_tokens: int = 0
    num_loaded_tokens: int = 0
    num_evicted_tokens: int = 0  # that have to be computed again
    num_late_loads: int = 0  # of sessions whose next token was late already


class StepReport(Struct, frozen=True, kw_only=True):
    """One step of the target, for the metrics."""

    num_sessions: int
    num_tokens: int
    num_prefill: int  # how many of these are tokens of prompts
    drafts: dict[Source, DraftCounts]  # how many of these are drafts, for every source
    num_committed: int
    step_time_s: float  # spent inside the verifier
    loop_time_s: float  # of the whole turn of the engine loop, the step included
    forecast: Forecast | None = None  # None: the policy has no estimator
    marginal_cost: float | None = None  # of a draft token, in committed tokens; None: unknown
    kv_used: float | None = None  # share of the KV memory after the step; None: unknown
    kv: KvReport = KvReport()

    @property
    def num_plain(self) -> int:
        """The last committed token of each session that decodes."""
        num_drafted = sum(counts.num_drafted for counts in self.drafts.values())
        return self.num_tokens - self.num_prefill - num_drafted


class Verdicts(Struct, frozen=True, tag=True):
    verdicts: list[tuple[int, Verdict]]  # (session, verdict)
    step: StepReport


class SessionState(Struct, frozen=True, kw_only=True):
    """What only the engine knows of a session."""

    session_id: int
    prefilling: bool
    parked: bool = False  # its KV is in host memory
    num_output: int
    num_buffered: int
    window: int
    threshold: float
    acceptance: float | None  # recent, of the edge's drafts; None: none was examined
    round_trip_s: float | None
    draft_time_s: float | None  # that the edge needs for one token
    slack_s: float  # the time that is left until its next token is due


class Snapshot(Struct, frozen=True, tag=True):
    sessions: list[SessionState]


class Pong(Struct, frozen=True, tag=True):
    """The loop goes round."""


class Failed(Struct, frozen=True, tag=True):
    """A session has ended without an answer of its own; nobody else is touched."""

    session_id: int
    kind: ErrorKind
    message: str
    retry_after_s: float | None = None  # with "overloaded" and "shed"


class Fatal(Struct, frozen=True, tag=True):
    """The engine cannot start."""

    message: str


FromEngine = Ready | Verdicts | Snapshot | Failed | Fatal | Pong

encode = msgspec.msgpack.Encoder().encode
decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
decode_from_engine = msgspec.msgpack.Decoder(FromEngine).decode
