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
from wisp.errors import BadRequest
from wisp.launch import StopSignal, announce, until_any
from wisp.metrics import ServerMetrics, metrics_route
from wisp.models.tokenizer import Tokenizer
from wisp.openai.http_front import HttpFront
from wisp.openai.routes import create_app, json_body
from wisp.server.grpc_front import GrpcFront
from wisp.server.page import page_route
from wisp.server.service import Service, slo_classes
from wisp.server.telemetry import Telemetry
from wisp.verifier.base import Verifier

log = logging.getLogger(__name__)
Build = Callable[[ServerConfig], tuple[Verifier, Engine]]
# What a drained server waits for answers that are written but not yet sent. Chosen: a round trip or
# two over the slowest line.
_GRACE_S = 2.0


async def serve(config: ServerConfig, build: Build = build_engine) -> int:
    """Run until SIGTERM or SIGINT (0), or until the engine is lost (1).

    `build` makes the engine, in its own process. Raises ConfigError if it cannot start.
    """
    tokenizer = Tokenizer(config.target)
    telemetry = Telemetry(slo_classes(config).all, ServerMetrics(), time.monotonic())
    engine = EngineClient(on_step=lambda step: telemetry.stepped(step, time.monotonic()))
    await engine.start(functools.partial(build, config), config.log_level)
    try:
        service = Service(engine, tokenizer, config, telemetry)
        return await _serve(config, engine, service, telemetry)
    finally:
        await engine.stop()


async def _serve(
    config: ServerConfig, engine: EngineClient, service: Service, telemetry: Telemetry
) -> int:
    stats = Route("/v1/stats", _stats(service))
    routes = [page_route(), metrics_route(telemetry.metrics.registry), stats]
    if config.scheduling.switchable:
        routes.append(Route("/v1/policy", _policy(service), methods=["POST"]))
    app = create_app(service, extra_routes=routes)
    http = HttpFront(app, config.http)
    grpc = GrpcFront(service, telemetry, config.grpc)
    http.start()
    await grpc.start()
    stop = StopSignal()
    announce("wisp-server", model=service.card.id, http=http.port, grpc=grpc.port)
    await until_any(engine.lost, stop.asked)
    log.info("draining %d sessions", engine.num_sessions)
    await grpc.set_serving(False)
    await service.drain(config.drain_s, stop.hurry)
    await asyncio.gather(grpc.stop(_GRACE_S), http.stop())
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
