"""What the OpenAI-compatible routes need from the half of WISP that they run in.

The server's backend opens a session in its own engine; the edge's opens one over its link and
drafts for it. The routes do not know which.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from wisp.core.drafts import Verdict
from wisp.core.request import Sampling
from wisp.core.slo import Attainment, SloChoice
from wisp.errors import ModelNotFound
from wisp.models.tokenizer import Tokenizer


class ModelCard(Struct, frozen=True, kw_only=True):
    """The served target, as /v1/models and the checks of a request see it."""

    id: str
    created: int  # seconds since 1970
    max_model_len: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    adapters: tuple[str, ...] = ()  # of the target, each served as a model of its own

    def adapter(self, name: str) -> str | None:
        """Which one the model's name stands for; None: the target. Raises ModelNotFound."""
        if name == self.id:
            return None
        if name not in self.adapters:
            served = " or ".join(f"'{known}'" for known in (self.id, *self.adapters))
            raise ModelNotFound(f"The model '{name}' is not served here: use {served}.", "model")
        return name


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """A checked request. `sampling.stop_token_ids` already holds the model's end tokens."""

    prompt: list[int]
    sampling: Sampling
    model: str = ""  # as the card names it; empty: the target
    slo: SloChoice = None
    use_drafts: bool = True  # an edge must not draft when false


class Generation(Protocol):
    """One running generation. Iterating yields verdicts until one has a finish_reason.

    Errors of wisp.errors are raised from the iteration, also before the first verdict.
    """

    @property
    def attainment(self) -> Attainment:
        """Known from the first verdict on."""

    def __aiter__(self) -> AsyncIterator[Verdict]: ...

    async def aclose(self) -> None:
        """Free the session now, finished or not; may be called twice."""

    def stats(self) -> dict[str, float]:
        """What joins the response's `usage.wisp`, e.g. wasted drafting on an edge."""


class Backend(Protocol):
    tokenizer: Tokenizer

    async def model(self) -> ModelCard:
        """The card of the served target. Raises Unavailable while there is none."""

    async def generate(self, request: GenerationRequest) -> Generation:
        """Open a session. Raises Overloaded, Unavailable or BadRequest."""

    async def health(self) -> str | None:
        """None when requests can be served, else one sentence that says why not."""
