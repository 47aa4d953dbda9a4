"""From the fields of an HTTP request to the one record of a request: tokens and parameters."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from pydantic import ValidationError

from wisp.core.card import ModelCard
from wisp.core.request import Request, Sampling, Structure
from wisp.core.slo import Slo, SloChoice
from wisp.errors import BadRequest, PromptTooLong
from wisp.models.tokenizer import Tokenizer
from wisp.openai.chat_request import ChatRequest
from wisp.openai.completion_request import CompletionRequest
from wisp.openai.conversation import Message, Tool
from wisp.openai.generation_fields import GenerationFields, SloFields
from wisp.openai.tokenizing import TokenizeRequest

SLO_HEADER = "x-wisp-slo"


def to_requests(
    fields: ChatRequest | CompletionRequest,
    card: ModelCard,
    tokenizer: Tokenizer,
    slo_header: str | None = None,
    tags: Structure | None = None,
) -> list[Request]:
    """One for each answer to each prompt; the backend checks them.

    `tags`: for calls of functions in an answer that need not be any.

    The first answer to a prompt has the seed that is asked for, the next one the seed behind it, as
    in vLLM. Raises BadRequest and its children.
    """
    card.adapter(fields.model)
    fields.check()
    if isinstance(fields, ChatRequest):
        tools = fields.usable_tools
        prompts = [_chat_prompt(fields, fields.messages, tools, card, tokenizer)]
    else:
        prompts = [_text_prompt(prompt, card, tokenizer) for prompt in fields.prompt]
    # A random seed has at most 53 bits: so it stays exact in clients whose numbers are all doubles.
    seed = secrets.randbelow(2**53) if fields.seed is None else fields.seed
    return [
        Request(
            prompt=prompt,
            sampling=_sampling(fields, card, len(prompt), (seed + index) % 2**64, tags),
            model=fields.model,
            slo=_chosen_slo(fields.wisp.slo, slo_header),
            speculation=fields.wisp.speculation,
        )
        for prompt in prompts
        for index in range(fields.num_answers)
    ]


def _chat_prompt(
    fields: ChatRequest | TokenizeRequest,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    card: ModelCard,
    tokenizer: Tokenizer,
) -> list[int]:
    _check_chars(sum(len(message.content) for message in messages), card, tokenizer)
    return tokenizer.encode_chat(
        [message.for_template() for message in messages],
        fields.chat_template_kwargs,
        [tool.for_template() for tool in tools],
    )


def tokens_of(fields: TokenizeRequest, card: ModelCard, tokenizer: Tokenizer) -> list[int]:
    """As a generation would have them. Raises BadRequest and its children."""
    if fields.model is not None:
        card.adapter(fields.model)
    if fields.messages is not None:
        return _chat_prompt(fields, fields.messages, fields.tools, card, tokenizer)
    text = fields.prompt or ""
    _check_chars(len(text), card, tokenizer)
    return tokenizer.encode(text, special_tokens=fields.add_special_tokens is not False)


def _text_prompt(prompt: str | list[int], card: ModelCard, tokenizer: Tokenizer) -> list[int]:
    if isinstance(prompt, list):
        return prompt
    _check_chars(len(prompt), card, tokenizer)
    return tokenizer.encode(prompt)


def _check_chars(num_chars: int, card: ModelCard, tokenizer: Tokenizer) -> None:
    """Refuse what cannot fit before time is spent on tokenizing it."""
    if num_chars > card.max_model_len * tokenizer.longest_token:
        raise PromptTooLong(
            f"the model's context is {card.max_model_len} tokens, but the prompt has {num_chars} "
            "characters: shorten it",
            param="prompt",
        )


def _sampling(
    fields: GenerationFields, card: ModelCard, num_prompt: int, seed: int, tags: Structure | None
) -> Sampling:
    """Without a limit of its own an answer may fill the context, if there is room for any."""
    room = max(1, card.max_model_len - num_prompt)
    ends = () if fields.ignore_eos else card.eos_token_ids
    num_logprobs = fields.num_logprobs
    if num_logprobs is None and fields.num_answers > fields.n:
        num_logprobs = 0  # the best answers are those whose tokens are the likeliest in the mean
    return Sampling(
        max_tokens=room if fields.max_tokens is None else fields.max_tokens,
        seed=seed,
        temperature=fields.temperature,
        top_p=fields.top_p,
        top_k=fields.top_k,
        min_p=fields.min_p,
        presence_penalty=fields.presence_penalty,
        frequency_penalty=fields.frequency_penalty,
        repetition_penalty=fields.repetition_penalty,
        logit_bias=fields.logit_bias,
        min_tokens=fields.min_tokens,
        stop_token_ids=tuple(dict.fromkeys([*ends, *fields.stop_token_ids])),
        num_logprobs=num_logprobs,
        structure=fields.structure or tags,
    )


def _chosen_slo(in_body: SloFields | str | None, header: str | None) -> SloChoice:
    """The body's `wisp.slo` wins over the header, which a proxy may set for many requests.

    Raises BadRequest.
    """
    if in_body is not None:
        return Slo(**in_body.model_dump()) if isinstance(in_body, SloFields) else in_body
    return None if header is None else _from_header(header)


def _from_header(value: str) -> SloChoice:
    """`NAME`, or `tokens_per_s=20, first_token_s=0.5`."""
    if "=" not in value:
        return value.strip() or None
    try:
        pairs = (pair.split("=") for pair in value.split(","))
        numbers = {name.strip(): float(number) for name, number in pairs}
        return Slo(**SloFields.model_validate(numbers).model_dump())
    except (ValueError, ValidationError) as error:
        raise BadRequest(
            f"The header {SLO_HEADER} is '{value}': send the name of an SLO class, or "
            "'tokens_per_s=20, first_token_s=0.5' with numbers above 0.",
            SLO_HEADER,
        ) from error
