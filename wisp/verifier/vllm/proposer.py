"""The drafter that vLLM is given: none. Drafts come from the edges, through the scheduler."""

from __future__ import annotations

from typing import Any


class NullProposer:
    """A `custom_class` proposer, so that vLLM keeps room for draft tokens in its steps."""

    def __init__(self, vllm_config: Any) -> None:
        """vLLM constructs it with its configuration; nothing of it is needed."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """There is none."""

    def propose(self, sampled_token_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        """No draft for any of the requests."""
        return [[] for _ in sampled_token_ids]
