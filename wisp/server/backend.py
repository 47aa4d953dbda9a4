"""The server's side of the OpenAI routes: a generation is a session without an edge."""

from __future__ import annotations

from wisp.core.card import ModelCard
from wisp.core.request import Request
from wisp.openai.backend import Generation
from wisp.server.service import Service


class ServerBackend:
    def __init__(self, service: Service) -> None:
        self._service = service
        self.tokenizer = service.tokenizer

    async def model(self) -> ModelCard:
        return self._service.card

    async def generate(self, request: Request) -> Generation:
        return self._service.open(request)

    async def health(self) -> str | None:
        return self._service.refusal()
