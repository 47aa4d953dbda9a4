"""gRPC's standard services beside ours: health and reflection. Neither holds a stream for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from wisp.errors import WispError
from wisp.status import refusal_of
from wisp.v1 import wisp_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = pb.DESCRIPTOR.services_by_name["Wisp"].full_name
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
# How long a stream of reflection may take. Chosen: whoever looks at a service has its few answers
# in a round trip or two.
_REFLECTION_S = 10.0


async def abort(context: Context, error: WispError) -> None:
    refusal = refusal_of(error)
    await context.abort(refusal.code, refusal.details, refusal.trailing_metadata)


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Whether sessions are taken now: anybody may ask, and nobody is told of changes.

    What a later version of the standard has beside this is not implemented: that of
    grpcio-health-checking 1.85 lists services.

    To watch takes no key, and would hold streams for ever; the library's own waits for whoever does
    not read before it tells anybody else, and so for ever, too.
    """

    def __init__(self, refusal: Callable[[], str | None]) -> None:
        """`refusal`: why no session is taken now, if none is."""
        self._refusal = refusal

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in ("", SERVICE):
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service here")
        statuses = health_pb2.HealthCheckResponse
        return statuses(status=statuses.NOT_SERVING if self._refusal() else statuses.SERVING)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "ask with Check, as often as needed")


class Reflection:
    """What can be called, for those who may call it."""

    def __init__(self, admit: Callable[[Context], object]) -> None:
        """`admit` raises WispError for whoever is not let in."""
        self._admit = admit
        names = (SERVICE, _HEALTH, reflection.SERVICE_NAME)
        self._known: Any = reflection.aio.ReflectionServicer(names)  # type: ignore[attr-defined]

    async def ServerReflectionInfo(self, requests: AsyncIterator[Any], context: Context) -> None:
        try:
            self._admit(context)
            async with asyncio.timeout(_REFLECTION_S):
                async for answer in self._known.ServerReflectionInfo(requests, context):
                    await context.write(answer)
        except WispError as error:
            await abort(context, error)
        except TimeoutError:
            return


def add_standard_services(
    server: grpc.aio.Server,
    refusal: Callable[[], str | None],
    admit: Callable[[Context], object],
) -> None:
    health_pb2_grpc.add_HealthServicer_to_server(Health(refusal), server)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(Reflection(admit), server)
