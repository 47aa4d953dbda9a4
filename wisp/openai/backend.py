"""What the OpenAI-compatible routes need from the half of WISP that they run in.

The server's backend opens a session in its own engine; the edge's opens one over its link and
drafts for it. The routes do not know which.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from wisp.core.card import ModelCard
from wisp.core.drafts import Verdict
from wisp.core.request import Request
from wisp.core.slo import Attainment
from wisp.models.tokenizer import Tokenizer


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

    async def generate(self, request: Request) -> Generation:
        """Check the request against the model's card, and open a session.

        Raises BadRequest, Overloaded or Unavailable.
        """

    async def health(self) -> str | None:
        """None when requests can be served, else one sentence that says why not."""
