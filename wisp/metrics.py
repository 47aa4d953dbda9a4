"""The metrics of an edge, and what those of both halves share. Each process owns one registry and
serves it at /metrics."""

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
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class EdgeMetrics:
    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.sessions = Gauge("wisp_edge_sessions", "Running generations", registry=r)
        self.connected = Gauge(
            "wisp_edge_connected", "1 while there is a connection to the server", registry=r
        )
        self.drafter_up = Gauge(
            "wisp_edge_drafter_up",
            "1 while the drafter drafts, 0 while its process is gone or starts",
            registry=r,
        )
        self.drafter_restarts = Counter(
            "wisp_edge_drafter_restarts_total",
            "Times that the drafter's process was started again",
            registry=r,
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
            "wisp_edge_draft_seconds", "Time of one draft step", buckets=SECONDS, registry=r
        )
        self.round_trip_s = Histogram(
            "wisp_edge_round_trip_seconds",
            "Wait for a verdict, less the server's own time",
            buckets=SECONDS,
            registry=r,
        )
        self.http_requests = http_requests(r)
        ProcessCollector(registry=r)


def http_requests(registry: CollectorRegistry) -> Counter:
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
