"""wisp-server: the engine process, both fronts, and an orderly end."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Response
from starlette.types import ASGIApp

from wisp.access.gate import Gate
from wisp.config import Listen, ServerConfig
from wisp.engine.build import build_engine
from wisp.engine.client import EngineClient
from wisp.engine.engine import Engine
from wisp.launch import StopSignal, announce, feed_watchdog, until_any
from wisp.metrics import metrics_router
from wisp.models.tokenizer import Tokenizer
from wisp.openai.access import AccessMiddleware, paths_of
from wisp.openai.body import JsonRoute
from wisp.openai.http_front import HttpFront
from wisp.openai.page import page_router
from wisp.openai.routes import create_app, create_operators_app
from wisp.padding import padding_of
from wisp.server.grpc_front import GrpcFront
from wisp.server.server_metrics import ServerMetrics
from wisp.server.service import Service, slo_classes
from wisp.server.telemetry import Telemetry
from wisp.tasks import begin, every
from wisp.tls import RELOAD_S, check_plain_text, https_of, is_loopback
from wisp.verifier.base import Verifier

log = logging.getLogger(__name__)
PAGE = Path(__file__).with_name("page.html")
Build = Callable[[ServerConfig], tuple[Verifier, Engine]]
# What a drained server waits for answers that are written but not yet sent. Chosen: a round trip or
# two over the slowest line.
_GRACE_S = 2.0


async def serve(config: ServerConfig, build: Build = build_engine) -> int:
    """Run until SIGTERM or SIGINT (0), or until the engine or a front is lost (1).

    `build` makes the engine, in its own process. Raises ConfigError if it cannot start.
    """
    tls = config.tls
    has_https = bool(tls.cert) and tls.http
    check_plain_text([config.http.host], has_https, config.insecure, "HTTP on")
    if config.admin.port is not None:
        check_plain_text([config.admin.host], has_https, config.insecure, "operators' HTTP on")
    check_plain_text([config.grpc.host], bool(tls.cert), config.insecure, "gRPC on")
    tokenizer = Tokenizer(config.target)
    telemetry = Telemetry(slo_classes(config).all, ServerMetrics(), time.monotonic())
    engine = EngineClient(
        on_step=lambda step: telemetry.stepped(step, time.monotonic()),
        patience_s=config.engine.patience_s,
    )
    await engine.start(functools.partial(build, config), config.log_level)
    try:
        service = Service(engine, tokenizer, config, telemetry)
        return await _serve(config, engine, service, telemetry)
    finally:
        await engine.stop()


async def _serve(
    config: ServerConfig, engine: EngineClient, service: Service, telemetry: Telemetry
) -> int:
    operators = _operators(service, switchable=config.scheduling.switchable)
    routers = [page_router(PAGE), metrics_router(telemetry.metrics.registry), operators]
    gate, tls = Gate(config.keys), config.tls
    https = https_of(tls.cert, tls.key) if tls.http else None
    app = _app(service, routers, config, gate)
    counted = telemetry.metrics.http_requests
    http = HttpFront(app, config.http, https, settings=config.api, requests=counted)
    fronts = {"http": http}
    if config.admin.port is not None:
        listen = Listen(host=config.admin.host, port=config.admin.port)
        fronts["admin"] = HttpFront(create_operators_app(routers), listen, https)
    grpc = GrpcFront(service, telemetry, config.grpc, tls, gate, padding=padding_of(config.padding))
    for front in fronts.values():
        front.start()
    await grpc.start()
    stop = StopSignal()
    ports = {name: front.port for name, front in fronts.items()}
    announce("wisp-server", model=service.card.id, grpc=grpc.port, **ports)
    reload = functools.partial(_reload_keys, gate, service)
    reloading = every(RELOAD_S, reload, "the keys could not be read again")
    watchdog = begin(feed_watchdog, "systemd's watchdog is not fed any more")
    lost = [engine.lost, *(front.lost for front in fronts.values())]
    await until_any(stop.asked, *lost)
    reloading.cancel()
    log.info("draining %d sessions", engine.num_sessions)
    await service.drain(config.drain_s, stop.hurry)
    await asyncio.gather(grpc.stop(_GRACE_S), *(front.stop() for front in fronts.values()))
    watchdog.cancel()
    return 1 if any(each.is_set() for each in lost) else 0


def _app(
    service: Service, routers: Sequence[APIRouter], config: ServerConfig, gate: Gate
) -> ASGIApp:
    """Operators' routes are among the others unless they have a port of their own."""
    own_port = config.admin.port is not None
    mine = () if own_port else routers
    app = create_app(service, routers=mine, tool_format=config.api.tool_format)
    alone = not gate.asks and is_loopback(config.http.host)
    return AccessMiddleware(app, gate, paths_of(routers), operators_open=alone)


def _reload_keys(gate: Gate, service: Service) -> None:
    if gate.reload():
        service.revoke(gate)


def _operators(service: Service, *, switchable: bool) -> APIRouter:
    router = APIRouter(route_class=JsonRoute, tags=["operators"])

    @router.get("/v1/stats")
    async def stats(sessions: Literal["0", "1"] = "1") -> Response:
        """What `wisp top` shows. `sessions=0` leaves the sessions out: there may be a thousand."""
        told = await service.stats()
        if sessions == "0":
            told = msgspec.structs.replace(told, sessions=[])
        return Response(msgspec.json.encode(told), media_type="application/json")

    async def policy(asked: dict[str, Any]) -> Response:
        """Schedule by another policy from now on."""
        body = msgspec.json.encode(service.switch_policy(asked))
        return Response(body, media_type="application/json")

    if switchable:
        router.post("/v1/policy")(policy)
    return router
