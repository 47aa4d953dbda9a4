"""The served target, as clients see it, and what can be asked of it."""

from __future__ import annotations

from msgspec import Struct

from wisp.core.request import Request, check_sampling, check_tokens
from wisp.errors import BadRequest, ModelNotFound, PromptTooLong


class ModelCard(Struct, frozen=True, kw_only=True):
    """What /v1/models tells, and what a request is checked against: on an edge and on a server."""

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
            raise ModelNotFound(f"the model '{name}' is not served here: use {served}", "model")
        return name

    def check(self, request: Request) -> None:
        """Raises BadRequest, or PromptTooLong, for what the target cannot do."""
        sampling = request.sampling
        if not request.prompt:
            raise BadRequest("the prompt is empty: send at least one token", param="prompt")
        check_sampling(sampling)
        self._check_context(len(request.prompt), sampling.max_tokens)
        if len(request.committed) >= sampling.max_tokens:
            raise BadRequest("the generation to resume is already complete", param="committed")
        for name, tokens in (
            ("prompt", request.prompt),
            ("committed", request.committed),
            ("logit_bias", sampling.logit_bias),
            ("stop_token_ids", sampling.stop_token_ids),
        ):
            check_tokens(tokens, self.vocab_size, name)

    def _check_context(self, num_prompt: int, max_tokens: int) -> None:
        room = self.max_model_len - num_prompt
        if max_tokens > room:
            ask = f"the prompt or ask for at most {room}" if room > 0 else "the prompt"
            raise PromptTooLong(
                f"the model's context is {self.max_model_len} tokens, but the prompt has "
                f"{num_prompt} and the answer may have {max_tokens}: shorten {ask}",
                param="prompt",
            )
