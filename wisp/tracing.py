"""Traces of requests, by OpenTelemetry: from an edge's HTTP request to the steps of the target.

Off unless a collector is named. They tell times and counts, and nothing of a text.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from starlette.types import ASGIApp

from wisp import __version__
from wisp.config import TracingSettings

_NAME = "wisp"
# Addresses that ask for no text, and are not traced: health, metrics, models.
_OTHERS = r"^(?!.*/v1/(chat/completions|completions|responses)(\?|$))"
# How long a program that ends waits for its last spans to be taken. Chosen: a collector near by
# takes them at once, and one that is gone holds no restart up.
_FLUSH_S = 2.0


@contextlib.contextmanager
def traced(settings: TracingSettings, service: str) -> Iterator[None]:
    """Send what this process traces to the collector, if there is one.

    The SDK reads its own variables (OTEL_*) for what is no setting here.
    """
    if settings.endpoint is None:
        yield
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    name = os.environ.get("OTEL_SERVICE_NAME") or service
    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(settings.share),
        resource=Resource.create({"service.name": name, "service.version": __version__}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(settings.endpoint)))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        flushing = threading.Thread(target=provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(_FLUSH_S)


def around(app: ASGIApp) -> ASGIApp:
    """With a span for each request of a text, if this process traces any."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return app
    from starlette.middleware.opentelemetry import OpenTelemetryMiddleware

    return OpenTelemetryMiddleware(app, excluded_urls=[_OTHERS])


def metadata() -> tuple[tuple[str, str], ...]:
    """Tells another process of the current span (W3C's traceparent); empty: there is none."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())


def continued(name: str, sent: Mapping[str, str | bytes]) -> AbstractContextManager[trace.Span]:
    """A span here, below the one that the metadata of another process tell of."""
    carrier = {key: value for key, value in sent.items() if isinstance(value, str)}
    tracer, kind = trace.get_tracer(_NAME), trace.SpanKind.SERVER
    context = propagate.extract(carrier)
    return tracer.start_as_current_span(name, context, kind, record_exception=False)


def tell(**told: bool | int | float | str) -> None:
    """Of the current span."""
    trace.get_current_span().set_attributes(_named(told))


class Spans:
    """What happened below one span, told when it is over. Times are those of `time.monotonic`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._tracer = trace.get_tracer(_NAME)
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    @staticmethod
    def current() -> Spans | None:
        """Below the current span; None: its request is not traced."""
        span = trace.get_current_span()
        return Spans(trace.set_span_in_context(span)) if span.is_recording() else None

    def add(self, name: str, begun_s: float, ended_s: float, **told: int | float | str) -> Spans:
        """One more; returns what is below it."""
        span = self._tracer.start_span(
            name, self._context, attributes=_named(told), start_time=self._at(begun_s)
        )
        span.end(self._at(max(begun_s, ended_s)))
        return Spans(trace.set_span_in_context(span))

    def _at(self, time_s: float) -> int:
        return self._offset_ns + round(1e9 * time_s)


def _named(told: Mapping[str, bool | int | float | str]) -> dict[str, bool | int | float | str]:
    return {f"{_NAME}.{key}": value for key, value in told.items()}
