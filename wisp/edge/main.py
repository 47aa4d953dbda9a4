"""wisp-edge: the drafter, the link to the server, and the local OpenAI endpoint."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from math import isnan
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp

from wisp.access.gate import Gate
from wisp.config import EdgeConfig
from wisp.edge.drafter.load import load_drafter, load_tokenizer
from wisp.edge.drafting import DraftLoop
from wisp.edge.edge_backend import EdgeBackend
from wisp.edge.hosts import HostsMiddleware
from wisp.edge.learning import SAVE_EVERY_S, Learning
from wisp.edge.link import Link
from wisp.edge.power import Power, on_this_machine
from wisp.edge.predictor import LogisticPredictor
from wisp.edge.security import Security
from wisp.launch import StopSignal, announce, feed_watchdog, until_any
from wisp.metrics import EdgeMetrics, metrics_router
from wisp.openai.access import AccessMiddleware, paths_of
from wisp.openai.http_front import HttpFront
from wisp.openai.page import page_router
from wisp.openai.routes import create_app
from wisp.padding import padding_of
from wisp.tasks import begin, every
from wisp.tls import RELOAD_S, check_plain_text, https_of, is_loopback

log = logging.getLogger(__name__)
PAGE = Path(__file__).with_name("page.html")


async def serve(config: EdgeConfig) -> int:
    """Run until SIGTERM or SIGINT (0), or until it can serve nobody any more (1).

    Raises ConfigError if it cannot start, HandshakeError if its drafter does not suit the server.
    """
    tls = config.tls
    check_plain_text([config.http.host], bool(tls.http_cert), config.insecure, "HTTP on")
    security = Security(config)
    tokenizer = await asyncio.to_thread(load_tokenizer, config)
    metrics = EdgeMetrics()
    drafter = await asyncio.to_thread(load_drafter, config, tokenizer)
    link = Link(config.server, security=security, padding=padding_of(config.padding))
    learning = Learning(config)
    on_cpu = config.drafter.device == "cpu" and config.engine != "vllm"
    power = Power(config.power, shares_cores=on_cpu and on_this_machine(config.server))
    slots = config.drafter.max_sessions
    loop = DraftLoop(drafter, learning.predictor, slots, metrics, power=power)
    loop.measure()
    backend = EdgeBackend(link, loop, tokenizer, config, metrics, learning.know_target)
    operators = [
        metrics_router(metrics.registry),
        _operators(backend, learning.known, metrics, power),
    ]
    gate = Gate(config.keys)
    https = https_of(tls.http_cert, tls.http_key)
    app, counted = _app(backend, operators, config, gate), metrics.http_requests
    http = HttpFront(app, config.http, https, settings=config.api, requests=counted)
    http.start()
    stop = StopSignal()
    announce("wisp-edge", server=config.server, http=http.port)
    lost = asyncio.Event()  # set when the connections are not watched any more
    watch = partial(link.watch, backend.on_connection)
    watching = begin(watch, "the connections are not watched any more", lost.set)
    connected = asyncio.create_task(backend.connect())
    stopped = asyncio.create_task(until_any(stop.asked, lost, http.lost))
    saving = every(SAVE_EVERY_S, learning.save, "what the predictor learned could not be kept")
    reloading = every(RELOAD_S, gate.reload, "the keys could not be read again")
    watchdog = begin(feed_watchdog, "systemd's watchdog is not fed any more")
    try:
        await asyncio.wait([connected, stopped], return_when=asyncio.FIRST_COMPLETED)
        if connected.done():
            connected.result()  # a handshake that failed ends this process
        await stopped
        log.info("draining %d generations", len(backend.running))
        await backend.drain(config.drain_s, stop.hurry)
    finally:
        for task in (watching, connected, stopped, saving, reloading, watchdog):
            task.cancel()
        await http.stop()
        await loop.stop()
        await link.close()
        learning.close()
    return 1 if lost.is_set() or http.lost.is_set() else 0


def _app(
    backend: EdgeBackend, operators: Sequence[APIRouter], config: EdgeConfig, gate: Gate
) -> ASGIApp:
    """Operators' routes are among the others; the page asks for no key."""
    page = page_router(PAGE)
    app = create_app(backend, routers=[*operators, page], tool_format=config.api.tool_format)
    alone = not gate.asks and is_loopback(config.http.host)
    guarded = AccessMiddleware(
        app, gate, paths_of(operators), operators_open=alone, also_open=paths_of([page])
    )
    return HostsMiddleware(guarded, config.allowed_hosts)


def _operators(
    backend: EdgeBackend, predictor: LogisticPredictor, metrics: EdgeMetrics, power: Power
) -> APIRouter:
    router = APIRouter(tags=["operators"])

    @router.get("/v1/stats")
    async def stats() -> Response:
        """What this edge drafted, and what became of it."""

        def total(name: str, **labels: str) -> float:
            return metrics.registry.get_sample_value(name, labels) or 0.0

        def wasted_s(kind: str) -> float:
            return total("wisp_edge_wasted_drafting_seconds_total", kind=kind)

        error = predictor.calibration_error
        drafted = total("wisp_edge_drafted_tokens_total")
        wasted = total("wisp_edge_wasted_tokens_total")
        return JSONResponse(
            {
                "running": len(backend.running),
                "resting": power.resting,
                "drafting_share": power.share,
                "drafter_up": bool(total("wisp_edge_drafter_up")),
                "drafter_restarts": total("wisp_edge_drafter_restarts_total"),
                "reconnects": total("wisp_edge_reconnects_total"),
                "drafted_tokens": drafted,
                "accepted_tokens": total("wisp_edge_accepted_tokens_total"),
                "wasted_tokens": wasted,
                "fork_tokens": total("wisp_edge_fork_tokens_total"),
                "wasted_fork_tokens": total("wisp_edge_wasted_fork_tokens_total"),
                "wasted_draft_share": wasted / drafted if drafted else None,
                "wasted_drafting_s": {k: wasted_s(k) for k in ("blocking", "overlapped")},
                "predictor": {
                    "labels": predictor.num_labels,
                    "calibration_error": None if isnan(error) else error,  # JSON has no NaN
                },
            }
        )

    return router
