"""wisp-server: the engine process, both fronts, and an orderly end."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wisp.config import ServerConfig
from wisp.engine.build import build_engine
from wisp.engine.client import EngineClient
from wisp.engine.engine import Engine
from wisp.engine.messages import StepReport
from wisp.errors import BadRequest
from wisp.lifecycle import announce, stop_signal
from wisp.metrics import ServerMetrics, metrics_route
from wisp.models.tokenizer import Tokenizer
from wisp.openai.front import HttpFront
from wisp.openai.routes import create_app, json_body
from wisp.server.backend import ServerBackend
from wisp.server.classes import SloClasses
from wisp.server.grpc_front import GrpcFront
from wisp.server.page import page_route
from wisp.server.records import Records
from wisp.server.service import Service
from wisp.verifier.base import Verifier

log = logging.getLogger(__name__)
Build = Callable[[ServerConfig], tuple[Verifier, Engine]]
_GRACE_S = 2.0  # for answers that are already written


async def serve(config: ServerConfig, build: Build = build_engine) -> int:
    """Run until SIGTERM or SIGINT (0), or until the engine is lost (1).

    `build` makes the engine, in its own process. Raises ConfigError if it cannot start.
    """
    tokenizer = Tokenizer(config.target)
    metrics = ServerMetrics()
    records = Records(SloClasses(config).all, metrics, time.monotonic())
    engine = EngineClient(on_step=functools.partial(_count, metrics, records))
    await engine.start(functools.partial(build, config), config.log_level)
    try:
        service = Service(engine, tokenizer, config, metrics, records)
        return await _serve(config, engine, service, metrics)
    finally:
        await engine.stop()


async def _serve(
    config: ServerConfig, engine: EngineClient, service: Service, metrics: ServerMetrics
) -> int:
    stats = Route("/v1/stats", _stats(service))
    routes = [page_route(), metrics_route(metrics.registry), stats]
    if config.scheduling.switchable:
        routes.append(Route("/v1/policy", _policy(service), methods=["POST"]))
    app = create_app(ServerBackend(service), extra_routes=routes)
    http = HttpFront(app, config.http)
    grpc = GrpcFront(service, metrics, config.grpc)
    http.start()
    await grpc.start()
    stop = stop_signal()
    announce("wisp-server", model=service.card.id, http=http.port, grpc=grpc.port)
    lost = asyncio.create_task(engine.lost.wait())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([lost, stopped], return_when=asyncio.FIRST_COMPLETED)
    log.info("draining %d sessions", engine.num_sessions)
    await grpc.set_serving(False)
    await service.drain(config.drain_s)
    await asyncio.gather(grpc.stop(_GRACE_S), http.stop())
    lost.cancel()
    stopped.cancel()
    return 1 if engine.lost.is_set() else 0


def _stats(service: Service) -> Callable[[Request], Awaitable[Response]]:
    async def stats(request: Request) -> Response:
        told = await service.stats()
        if request.query_params.get("sessions") == "0":  # there may be a thousand
            told = msgspec.structs.replace(told, sessions=[])
        return Response(msgspec.json.encode(told), media_type="application/json")

    return stats


def _policy(service: Service) -> Callable[[Request], Awaitable[Response]]:
    async def policy(request: Request) -> Response:
        try:
            asked = msgspec.json.decode(await json_body(request), type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise BadRequest(f"the body must be a JSON object: {error}") from error
        body = msgspec.json.encode(service.switch_policy(asked))
        return Response(body, media_type="application/json")

    return policy


def _count(metrics: ServerMetrics, records: Records, step: StepReport) -> None:
    records.stepped(step, time.monotonic())
    metrics.steps.inc()
    metrics.step_s.observe(step.step_time_s)
    metrics.loop_s.observe(step.loop_time_s - step.step_time_s)
    metrics.step_sessions.observe(step.num_sessions)
    metrics.step_tokens.observe(step.num_tokens)
    metrics.committed.inc(step.num_committed)
    for source, counts in step.drafts.items():
        metrics.verified.labels(source).inc(counts.num_drafted)
        metrics.accepted.labels(source).inc(counts.num_accepted)
        metrics.rejected.labels(source).inc(counts.num_drafted - counts.num_accepted)
    if step.forecast:
        metrics.step_error.observe(abs(step.step_time_s / step.forecast.expected_s - 1.0))
        metrics.step_over_upper.inc(step.step_time_s > step.forecast.upper_s)
        metrics.estimator_drift.set(step.forecast.drift)
        metrics.interference.observe(step.step_time_s / step.forecast.alone_s)
    if step.marginal_cost is not None:
        metrics.marginal_cost.set(step.marginal_cost)
