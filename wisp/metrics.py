"""Every metric, by name. Each process owns one registry and serves it at /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

disable_created_metrics()  # type: ignore[no-untyped-call]  # a time beside each counter, that nobody reads

# The upper bounds of the buckets of histograms. Those of times go in the steps 1, 2, 5. Chosen:
# from below the shortest step of a small target to where people give up.
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
# Of whole answers. Chosen: up to ten minutes, a long one at a slow rate.
_LONG_SECONDS = (*_SECONDS, 20, 50, 100, 200, 500)
# Errors of a prediction, relative to it. Chosen: one of 1 % is as good as none, and what is
# beyond twice the prediction is plainly wrong.
_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
# How many times longer a step takes than a seat's own. Chosen: dense where a batch costs little.
_RATIOS = (1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50)
# Tokens or sessions of a step. Chosen: powers of two, up to four times the default of
# `max_step_tokens`.
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class ServerMetrics:
    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.sessions = Gauge("wisp_sessions", "Open sessions", registry=r)
        # By the names and the label of vLLM's, which gateways read.
        self.num_running = Gauge(
            "vllm:num_requests_running",
            "Sessions whose text has begun",
            ["model_name"],
            registry=r,
        )
        self.num_waiting = Gauge(
            "vllm:num_requests_waiting",
            "Sessions that wait for their first token",
            ["model_name"],
            registry=r,
        )
        self.kv_used = Gauge(
            "vllm:kv_cache_usage_perc",
            "Share of the KV memory that sessions hold, 1 is all of it",
            ["model_name"],
            registry=r,
        )
        self.sessions_parked = Gauge(
            "wisp_sessions_parked", "Sessions whose KV is in host memory", registry=r
        )
        self.sessions_waiting_for_kv = Gauge(
            "wisp_sessions_waiting_for_kv", "Sessions that have no KV yet, or none left", registry=r
        )
        self.parked_tokens = Counter(
            "wisp_kv_parked_tokens_total", "Tokens whose KV went to host memory", registry=r
        )
        self.loaded_tokens = Counter(
            "wisp_kv_loaded_tokens_total", "Tokens whose KV came back from there", registry=r
        )
        self.evicted_tokens = Counter(
            "wisp_kv_evicted_tokens_total",
            "Tokens whose KV was given up, to be computed again",
            registry=r,
        )
        self.late_loads = Counter(
            "wisp_kv_late_loads_total",
            "Times that KV came back when the session's next token was late already",
            registry=r,
        )
        self.refused = Counter(
            "wisp_refused_total", "Sessions refused at the door", ["reason"], registry=r
        )
        self.devices = Gauge(
            "wisp_devices", "Edges with a session now or within a minute, by name", registry=r
        )
        self.failed = Counter(
            "wisp_failed_total", "Sessions that ended with an error", ["reason"], registry=r
        )
        self.steps = Counter("wisp_steps_total", "Steps of the target", registry=r)
        self.step_s = Histogram(
            "wisp_step_seconds", "Time of a step in the verifier", buckets=_SECONDS, registry=r
        )
        self.loop_s = Histogram(
            "wisp_loop_overhead_seconds",
            "Time of an engine turn outside the verifier",
            buckets=_SECONDS,
            registry=r,
        )
        self.step_sessions = Histogram(
            "wisp_step_sessions", "Sessions in a step", buckets=_TOKENS, registry=r
        )
        self.step_tokens = Histogram(
            "wisp_step_tokens", "New tokens in a step", buckets=_TOKENS, registry=r
        )
        self.step_error = Histogram(
            "wisp_step_error_ratio",
            "Error of a step's predicted time, relative to the prediction",
            buckets=_SHARES,
            registry=r,
        )
        self.step_over_upper = Counter(
            "wisp_step_over_upper_total",
            "Steps that took longer than the 95 % bound of their prediction",
            registry=r,
        )
        self.estimator_drift = Gauge(
            "wisp_estimator_drift",
            "Recent error of predicted step times against the long-run one; alarm above 3",
            registry=r,
        )
        self.committed = Counter("wisp_committed_tokens_total", "Tokens committed", registry=r)
        self.verified = Counter(
            "wisp_drafts_verified_total", "Draft tokens verified", ["source"], registry=r
        )
        self.accepted = Counter(
            "wisp_drafts_accepted_total", "Of these, those accepted", ["source"], registry=r
        )
        self.rejected = Counter(
            "wisp_drafts_rejected_total", "Of these, those in vain", ["source"], registry=r
        )
        self.rejections = Counter(
            "wisp_edge_stream_rejections_total",
            "Times that the target chose another token than an edge's drafts: no fork went on with "
            "it (uncovered), one did (covered), one did and had drafts behind it (seamless)",
            ["outcome"],
            registry=r,
        )
        self.unverified = Counter(
            "wisp_drafts_unverified_total",
            "Draft tokens of edges that no step verified: overtaken, contradicted or left over",
            registry=r,
        )
        self.marginal_cost = Gauge(
            "wisp_marginal_cost",
            "Of a draft token, in committed tokens, at the last step",
            registry=r,
        )
        self.interference = Histogram(
            "wisp_interference_ratio",
            "Time of a step, relative to what its mean seat would take alone by the estimator",
            buckets=_RATIOS,
            registry=r,
        )
        self.window = Histogram(
            "wisp_directive_window",
            "Windows asked of edges with their verdicts",
            ["slo_class"],
            buckets=(0, *_TOKENS[:7]),
            registry=r,
        )
        self.class_tokens = Counter(
            "wisp_class_tokens_total", "Tokens committed, by SLO class", ["slo_class"], registry=r
        )
        self.goodput = Counter(
            "wisp_goodput_tokens_total", "Of these, those in time", ["slo_class"], registry=r
        )
        self.ended = Counter(
            "wisp_sessions_ended_total", "Ended sessions with tokens", ["slo_class"], registry=r
        )
        self.first_token_attained = Counter(
            "wisp_sessions_first_token_attained_total",
            "Of these, those whose first token came in time",
            ["slo_class"],
            registry=r,
        )
        self.rate_attained = Counter(
            "wisp_sessions_rate_attained_total",
            "Of these, those that went at the promised rate on average",
            ["slo_class"],
            registry=r,
        )
        self.shed = Counter(
            "wisp_shed_total",
            "Sessions that had to make room for a higher priority",
            ["slo_class"],
            registry=r,
        )
        self.prompt_tokens = Counter(
            "wisp_prompt_tokens_total", "Tokens of the prompts of opened sessions", registry=r
        )
        self.finished = Counter(
            "wisp_sessions_finished_total",
            "Sessions by what ended them: the target's last token (stop), a limit (length), an "
            "error, or their front (closed): at a stop string, or because the client had left",
            ["reason"],
            registry=r,
        )
        self.first_token_s = Histogram(
            "wisp_first_token_seconds", "Open to first verdict", buckets=_SECONDS, registry=r
        )
        self.inter_token_s = Histogram(
            "wisp_inter_token_seconds",
            "For each token after a session's first verdict, its share of the time since the "
            "verdict before",
            buckets=_SECONDS,
            registry=r,
        )
        self.session_s = Histogram(
            "wisp_session_seconds", "Open to last verdict", buckets=_LONG_SECONDS, registry=r
        )
        self.http_requests = _http_requests(r)
        ProcessCollector(registry=r)
        self.round_overhead_s = Histogram(
            "wisp_round_overhead_seconds",
            "Draft block in to verdict out, less the verifier's time",
            buckets=_SECONDS,
            registry=r,
        )


class EdgeMetrics:
    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.sessions = Gauge("wisp_edge_sessions", "Running generations", registry=r)
        self.connected = Gauge(
            "wisp_edge_connected", "1 while there is a connection to the server", registry=r
        )
        self.reconnects = Counter("wisp_edge_reconnects_total", "Streams resumed", registry=r)
        self.drafted = Counter("wisp_edge_drafted_tokens_total", "Tokens drafted", registry=r)
        self.accepted = Counter("wisp_edge_accepted_tokens_total", "Drafts committed", registry=r)
        self.wasted = Counter(
            "wisp_edge_wasted_tokens_total", "Drafts that were never committed", registry=r
        )
        self.forked = Counter(
            "wisp_edge_fork_tokens_total",
            "Drafts made behind an alternative to a draft, and the alternatives",
            registry=r,
        )
        self.forked_wasted = Counter(
            "wisp_edge_wasted_fork_tokens_total", "Of these, those in vain", registry=r
        )
        self.wasted_s = Counter(
            "wisp_edge_wasted_drafting_seconds_total",
            "Time spent on them: it put a verdict off (blocking), or passed while one was due",
            ["kind"],
            registry=r,
        )
        for kind in ("blocking", "overlapped"):
            self.wasted_s.labels(kind)  # shown before the first
        self.calibration_error = Gauge(
            "wisp_edge_predictor_calibration_error",
            "Expected calibration error of predicted acceptance over recent drafts",
            registry=r,
        )
        self.draft_s = Histogram(
            "wisp_edge_draft_seconds", "Time of one draft step", buckets=_SECONDS, registry=r
        )
        self.round_trip_s = Histogram(
            "wisp_edge_round_trip_seconds",
            "Wait for a verdict, less the server's own time",
            buckets=_SECONDS,
            registry=r,
        )
        self.http_requests = _http_requests(r)
        ProcessCollector(registry=r)


def _http_requests(registry: CollectorRegistry) -> Counter:
    return Counter(
        "wisp_http_requests_total",
        "Answered HTTP requests, by path as the OpenAPI document has it (else other) and status; "
        "499: the client left before",
        ["path", "status"],
        registry=registry,
    )


def metrics_router(registry: CollectorRegistry) -> APIRouter:
    router = APIRouter(tags=["operators"])

    # On the loop, as whatever it reads changes there: a thread would meet it half changed.
    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """For Prometheus, in the text format that all who read metrics take."""
        # Whatever they accept: prometheus-client's OpenMetrics writes `vllm_` for `vllm:` (0.26).
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router
