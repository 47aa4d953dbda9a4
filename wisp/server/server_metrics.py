"""Every metric of a server, by name."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from wisp.metrics import SECONDS, http_requests

# Of whole answers. Chosen: up to ten minutes, a long one at a slow rate.
_LONG_SECONDS = (*SECONDS, 20, 50, 100, 200, 500)
# Errors of a prediction, relative to it. Chosen: one of 1 % is as good as none, and what is
# beyond twice the prediction is plainly wrong.
_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
# How many times longer a step takes than a seat's own. Chosen: dense where a batch costs little.
_RATIOS = (1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50)
# Tokens or sessions of a step. Chosen: powers of two, up to four times the default of
# `max_step_tokens`.
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class SessionMetrics:
    """Sessions from the door to their end, and how long they waited."""

    def __init__(self, r: CollectorRegistry) -> None:
        self.num_open = Gauge("wisp_sessions", "Open sessions", registry=r)
        self.devices = Gauge(
            "wisp_devices", "Edges with a session now or within a minute, by name", registry=r
        )
        self.refused = Counter(
            "wisp_refused_total", "Sessions refused at the door", ["reason"], registry=r
        )
        self.failed = Counter(
            "wisp_failed_total", "Sessions that ended with an error", ["reason"], registry=r
        )
        self.finished = Counter(
            "wisp_sessions_finished_total",
            "Sessions by what ended them: the target's last token (stop), a limit (length), an "
            "error, or their front (closed): at a stop string, or because the client had left",
            ["reason"],
            registry=r,
        )
        self.prompt_tokens = Counter(
            "wisp_prompt_tokens_total", "Tokens of the prompts of opened sessions", registry=r
        )
        self.first_token_s = Histogram(
            "wisp_first_token_seconds", "Open to first verdict", buckets=SECONDS, registry=r
        )
        self.inter_token_s = Histogram(
            "wisp_inter_token_seconds",
            "For each token after a session's first verdict, its share of the time since the "
            "verdict before",
            buckets=SECONDS,
            registry=r,
        )
        self.session_s = Histogram(
            "wisp_session_seconds", "Open to last verdict", buckets=_LONG_SECONDS, registry=r
        )
        self.round_overhead_s = Histogram(
            "wisp_round_overhead_seconds",
            "Draft block in to verdict out, less the verifier's time",
            buckets=SECONDS,
            registry=r,
        )


class GatewayMetrics:
    """By the names and the label of vLLM's, which gateways read."""

    def __init__(self, r: CollectorRegistry) -> None:
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


class KvMetrics:
    """Where the KV of sessions is, and goes."""

    def __init__(self, r: CollectorRegistry) -> None:
        self.num_parked = Gauge(
            "wisp_sessions_parked", "Sessions whose KV is in host memory", registry=r
        )
        self.num_waiting = Gauge(
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


class StepMetrics:
    """Steps of the target: what they hold and cost, and what was predicted of that."""

    def __init__(self, r: CollectorRegistry) -> None:
        self.total = Counter("wisp_steps_total", "Steps of the target", registry=r)
        self.time_s = Histogram(
            "wisp_step_seconds", "Time of a step in the verifier", buckets=SECONDS, registry=r
        )
        self.loop_s = Histogram(
            "wisp_loop_overhead_seconds",
            "Time of an engine turn outside the verifier",
            buckets=SECONDS,
            registry=r,
        )
        self.sessions = Histogram(
            "wisp_step_sessions", "Sessions in a step", buckets=_TOKENS, registry=r
        )
        self.tokens = Histogram(
            "wisp_step_tokens", "New tokens in a step", buckets=_TOKENS, registry=r
        )
        self.committed = Counter("wisp_committed_tokens_total", "Tokens committed", registry=r)
        self.error_ratio = Histogram(
            "wisp_step_error_ratio",
            "Error of a step's predicted time, relative to the prediction",
            buckets=_SHARES,
            registry=r,
        )
        self.over_upper = Counter(
            "wisp_step_over_upper_total",
            "Steps that took longer than the 95 % bound of their prediction",
            registry=r,
        )
        self.drift = Gauge(
            "wisp_estimator_drift",
            "Recent error of predicted step times against the long-run one; alarm above 3",
            registry=r,
        )
        self.interference = Histogram(
            "wisp_interference_ratio",
            "Time of a step, relative to what its mean seat would take alone by the estimator",
            buckets=_RATIOS,
            registry=r,
        )
        self.marginal_cost = Gauge(
            "wisp_marginal_cost",
            "Of a draft token, in committed tokens, at the last step",
            registry=r,
        )


class DraftMetrics:
    """What became of drafts."""

    def __init__(self, r: CollectorRegistry) -> None:
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


class ClassMetrics:
    """Promises, by SLO class."""

    def __init__(self, r: CollectorRegistry) -> None:
        self.tokens = Counter(
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
        self.window = Histogram(
            "wisp_directive_window",
            "Windows asked of edges with their verdicts",
            ["slo_class"],
            buckets=(0, *_TOKENS[:7]),
            registry=r,
        )


class ServerMetrics:
    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.sessions = SessionMetrics(r)
        self.gateway = GatewayMetrics(r)
        self.kv = KvMetrics(r)
        self.steps = StepMetrics(r)
        self.drafts = DraftMetrics(r)
        self.classes = ClassMetrics(r)
        self.http_requests = http_requests(r)
        ProcessCollector(registry=r)
