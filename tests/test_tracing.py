"""One trace leads from an application's request at an edge to the steps of the target."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio, Sampler

from tests.waiting import wait_on_the_loop
from wisp.config import ApiSettings, Listen, TracingSettings
from wisp.edge.link import Link
from wisp.openai.middleware import surrounded
from wisp.openai.routes import create_app
from wisp.server.grpc_front import GrpcFront
from wisp.testing.local import LocalEdge, LocalServer
from wisp.tracing import Spans, traced

CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"
NUM_TOKENS = 24


def recording(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Of this process, until the test ends."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(sampler=sampler)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Nothing is traced but what a caller asks for."""
    return recording(ParentBasedTraceIdRatio(0.0), monkeypatch)


@pytest.fixture
async def edge(exporter: InMemorySpanExporter) -> AsyncIterator[httpx.AsyncClient]:
    """An edge's endpoint, with its server in the same process."""
    server = LocalServer(step_s=0.002)
    front = GrpcFront(server.service, server.telemetry, Listen(port=0))
    await front.start()
    local = LocalEdge(Link(f"127.0.0.1:{front.port}"))
    app = surrounded(create_app(local.backend), ApiSettings())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
        yield client
    await local.stop()
    await front.stop(0)
    await server.stop()


async def ask(edge: httpx.AsyncClient, *, sampled: bool | None) -> None:
    headers = {"x-request-id": "mine-1"}
    if sampled is not None:
        headers["traceparent"] = f"00-{CALLER}-00f067aa0ba902b7-0{int(sampled)}"
    body = {"model": "scripted", "prompt": [1, 2, 3], "seed": 0, "max_tokens": NUM_TOKENS}
    answer = await edge.post("/v1/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text


async def test_one_trace_from_the_request_to_the_verdict(
    edge: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    await ask(edge, sampled=True)
    await wait_on_the_loop(
        lambda: "wisp.v1.Wisp/Generate" in names(exporter), "the stream has ended"
    )
    spans = exporter.get_finished_spans()
    assert {f"{context(span).trace_id:032x}" for span in spans} == {CALLER}
    by_id = {context(span).span_id: span for span in spans}
    edges = Counter((span.name, parent_of(span, by_id)) for span in spans)
    num_verdicts = edges["verdict", "wisp.v1.Wisp/Generate"]
    assert num_verdicts > 1
    assert edges == {
        ("POST /v1/completions", None): 1,
        ("open", "POST /v1/completions"): 1,
        ("round", "POST /v1/completions"): num_verdicts,
        ("draft", "round"): edges["draft", "round"],
        ("wisp.v1.Wisp/Generate", "POST /v1/completions"): 1,
        ("prefill", "wisp.v1.Wisp/Generate"): 1,
        ("verify", "wisp.v1.Wisp/Generate"): num_verdicts,
        ("verdict", "wisp.v1.Wisp/Generate"): num_verdicts,
    }
    assert edges["draft", "round"] > 0
    for name in ("round", "verify"):
        assert sum(told(span, "committed") for span in spans if span.name == name) == NUM_TOKENS
    drafted = [told(span, "drafted") for span in spans if span.name == "verify"]
    assert sum(drafted) > 0
    (request,) = [span for span in spans if span.name.startswith("POST")]
    assert (request.attributes or {})["wisp.request_id"] == "mine-1"
    for span in spans:
        assert begun(request) <= begun(span) <= ended(span), span.name


def names(exporter: InMemorySpanExporter) -> set[str]:
    return {span.name for span in exporter.get_finished_spans()}


def context(span: ReadableSpan) -> trace.SpanContext:
    assert isinstance(span.context, trace.SpanContext)
    return span.context


def parent_of(span: ReadableSpan, by_id: dict[int, ReadableSpan]) -> str | None:
    """None: it is the caller's own."""
    assert span.parent
    parent = by_id.get(span.parent.span_id)
    return parent.name if parent else None


def told(span: ReadableSpan, name: str) -> int:
    value = (span.attributes or {})[f"wisp.{name}"]
    assert isinstance(value, int)
    return value


def begun(span: ReadableSpan) -> int:
    assert span.start_time
    return span.start_time


def ended(span: ReadableSpan) -> int:
    assert span.end_time
    return span.end_time


@pytest.mark.parametrize("sampled", [False, None])
async def test_what_is_not_sampled_is_not_traced_at_the_server_either(
    edge: httpx.AsyncClient, exporter: InMemorySpanExporter, sampled: bool | None
) -> None:
    await ask(edge, sampled=sampled)
    await edge.get("/v1/models")
    assert not exporter.get_finished_spans()


async def test_health_and_models_are_not_traced(
    edge: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    parent = {"traceparent": f"00-{CALLER}-00f067aa0ba902b7-01"}
    for path in ("/health", "/v1/models", "/metrics", "/tokenize"):
        await edge.get(path, headers=parent)
    assert not exporter.get_finished_spans()


def test_without_a_collector_nothing_is_loaded_or_recorded() -> None:
    assert TracingSettings().endpoint is None
    with traced(TracingSettings(), "wisp-edge"):
        assert Spans.current() is None
    program = "import sys, wisp.tracing, wisp.edge.link; print('opentelemetry.sdk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "False"


class Collector(HTTPServer):
    """Takes spans over OTLP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taker)
        self.names: list[str] = []
        self.services: set[str] = set()


class Taker(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        for told in ExportTraceServiceRequest.FromString(body).resource_spans:
            for each in told.resource.attributes:
                if each.key == "service.name":
                    self.server.services.add(each.value.string_value)
            self.server.names += [s.name for scope in told.scope_spans for s in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    taker = Collector()
    thread = threading.Thread(target=taker.serve_forever)
    thread.start()
    yield taker
    taker.shutdown()
    thread.join()
    taker.server_close()


PROGRAM = """
import sys
from opentelemetry import trace
from wisp.config import TracingSettings
from wisp.tracing import traced
with traced(TracingSettings(endpoint=sys.argv[1], share=1.0), "wisp-edge"):
    with trace.get_tracer("wisp").start_as_current_span("mine"):
        pass
"""


def run(endpoint: str) -> float:
    """A program that traces; returns the seconds that it took."""
    begun_s = time.monotonic()
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", PROGRAM, endpoint], check=True, env=clean, timeout=60)
    return time.monotonic() - begun_s


def test_a_collector_gets_the_last_spans(collector: Collector) -> None:
    run(f"http://127.0.0.1:{collector.server_port}/v1/traces")
    assert (collector.names, collector.services) == (["mine"], {"wisp-edge"})


def test_a_collector_that_is_gone_holds_nobody_up(collector: Collector) -> None:
    with_one_s = run(f"http://127.0.0.1:{collector.server_port}/v1/traces")
    without_s = run("http://127.0.0.1:9/v1/traces")  # nobody listens there
    assert without_s < with_one_s + 5.0  # its own retries take ten
