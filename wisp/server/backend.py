"""The server's side of the OpenAI routes: a generation is a session without an edge."""

from __future__ import annotations

from wisp.openai.backend import Generation, GenerationRequest, ModelCard
from wisp.server.service import Service
from wisp.wire import Open


class ServerBackend:
    def __init__(self, service: Service) -> None:
        self._service = service
        self.tokenizer = service.tokenizer

    async def model(self) -> ModelCard:
        return self._service.card

    async def generate(self, request: GenerationRequest) -> Generation:
        opening = Open(
            prompt=request.prompt,
            sampling=request.sampling,
            slo=request.slo,
            model=request.model,
            drafts=request.use_drafts,
        )
        return self._service.open(opening, from_edge=False)

    async def health(self) -> str | None:
        return self._service.refusal()
