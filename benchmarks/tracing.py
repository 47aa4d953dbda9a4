"""What traces cost a round, and a request that is not traced, in processor time.

    python -m benchmarks.tracing [--json]

Both halves' spans of a round are made as their programs make them, encoded as for a collector, and
thrown away there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from benchmarks.setting import describe, setting
from wisp import tracing
from wisp.core.drafts import Directive, Verdict
from wisp.edge.traced import TracedGeneration
from wisp.server.server_session import ServerSession

NUM_ROUNDS = 20_000  # chosen: some seconds of them, so that all batches of spans are counted
STEPS_A_ROUND = 3  # of the drafter; chosen: about one more than the tokens that a step commits
VERDICT = Verdict(
    position=100, tokens=[1, 2], num_drafted=3, num_accepted=1, directive=Directive(8, 0.3)
)


class Thrown(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializePartialToString()
        return SpanExportResult.SUCCESS


def cost_us(what: Callable[[], object], number: int) -> float:
    """Of each, on all threads of this process."""
    begun_s = time.process_time()
    for _ in range(number):
        what()
    return 1e6 * (time.process_time() - begun_s) / number


def untraced_request() -> None:
    """What each half does for a request when nobody traces."""
    tracing.Spans.current()
    sent = dict(tracing.metadata())
    with tracing.continued("wisp.v1.Wisp/Generate", sent):
        tracing.tell(request_id="mine")
        tracing.Spans.current()
        tracing.tell(status="OK")


def measure() -> dict[str, float]:
    off_us = cost_us(untraced_request, NUM_ROUNDS)
    provider = TracerProvider()
    processor = BatchSpanProcessor(Thrown(), max_queue_size=10 * NUM_ROUNDS)
    provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)
    with trace.get_tracer("benchmark").start_as_current_span("request"):
        spans = tracing.Spans.current()
    assert spans
    edge = TracedGeneration(spans)
    server = ServerSession.__new__(ServerSession)  # its spans alone: nothing else of it is used
    server._opening_s = None

    def edge_round() -> None:
        for _ in range(STEPS_A_ROUND):
            now = time.monotonic()
            edge.drafted(now, now)
        edge.took(VERDICT, time.monotonic())

    def server_round() -> None:
        server._trace(spans, VERDICT)

    def with_export(what: Callable[[], None]) -> float:
        begun_s = time.process_time()
        for _ in range(NUM_ROUNDS):
            what()
        processor.force_flush()
        return 1e6 * (time.process_time() - begun_s) / NUM_ROUNDS

    return {
        "untraced_request_us": off_us,
        "edge_round_us": with_export(edge_round),
        "server_round_us": with_export(server_round),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    result = measure()
    told = setting(0, num_rounds=NUM_ROUNDS)
    if options.json:
        print(json.dumps({"setting": told, **result}))
        return
    print(describe(told))
    for name, value in result.items():
        print(f"{name}: {value:.1f}")


if __name__ == "__main__":
    main()
