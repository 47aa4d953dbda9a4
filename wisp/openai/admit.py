"""From a parsed request to a checked GenerationRequest."""

from __future__ import annotations

import secrets

from wisp.core.request import Sampling
from wisp.errors import BadRequest, PromptTooLong
from wisp.models.tokenizer import Tokenizer
from wisp.openai.backend import GenerationRequest, ModelCard
from wisp.openai.schemas import ChatRequest, CompletionRequest, GenerationFields
from wisp.openai.slo import chosen_slo


def admit(
    fields: ChatRequest | CompletionRequest,
    card: ModelCard,
    tokenizer: Tokenizer,
    slo_header: str | None = None,
) -> GenerationRequest:
    """Raises BadRequest and its children."""
    card.adapter(fields.model)
    if isinstance(fields, ChatRequest):
        prompt = _chat_prompt(fields, card, tokenizer)
    else:
        prompt = _text_prompt(fields, card, tokenizer)
    sampling = _sampling(fields, card, _max_tokens(fields, len(prompt), card))
    return GenerationRequest(
        prompt=prompt,
        sampling=sampling,
        model=fields.model,
        slo=chosen_slo(fields.wisp.slo, slo_header),
        use_drafts=fields.wisp.speculation,
    )


def _chat_prompt(fields: ChatRequest, card: ModelCard, tokenizer: Tokenizer) -> list[int]:
    messages = []
    for message in fields.messages:
        data = message.model_dump(exclude_none=True)
        if message.role == "developer":  # OpenAI's newer word; templates know the older one
            data["role"] = "system"
        messages.append(data)
    _check_chars(sum(len(message.content) for message in fields.messages), card, tokenizer)
    return tokenizer.encode_chat(messages, **fields.chat_template_kwargs)


def _text_prompt(fields: CompletionRequest, card: ModelCard, tokenizer: Tokenizer) -> list[int]:
    prompt = fields.prompt
    if isinstance(prompt, str):
        _check_chars(len(prompt), card, tokenizer)
        prompt = tokenizer.encode(prompt)
    else:
        _check_tokens(prompt, card, "prompt")
    if not prompt:
        raise BadRequest("The prompt is empty: send at least one token.", "prompt")
    return prompt


def _check_chars(num_chars: int, card: ModelCard, tokenizer: Tokenizer) -> None:
    """Refuse what cannot fit before time is spent on tokenizing it."""
    if num_chars > card.max_model_len * tokenizer.longest_token:
        raise PromptTooLong(
            f"The model's context is {card.max_model_len} tokens but the prompt has {num_chars} "
            "characters: shorten it."
        )


def _max_tokens(fields: GenerationFields, num_prompt: int, card: ModelCard) -> int:
    room = card.max_model_len - num_prompt
    if room < 1:
        raise PromptTooLong(
            f"The model's context is {card.max_model_len} tokens but the prompt has {num_prompt}: "
            "shorten it."
        )
    if fields.max_tokens is not None and fields.max_tokens > room:
        raise PromptTooLong(
            f"The model's context is {card.max_model_len} tokens but the prompt has {num_prompt} "
            f"and the answer may have {fields.max_tokens}: shorten the prompt or ask for at most "
            f"{room}."
        )
    max_tokens = room if fields.max_tokens is None else fields.max_tokens
    if fields.min_tokens > max_tokens:
        raise BadRequest(
            f"'min_tokens' is {fields.min_tokens} but at most {max_tokens} are possible.",
            "min_tokens",
        )
    return max_tokens


def _sampling(fields: GenerationFields, card: ModelCard, max_tokens: int) -> Sampling:
    _check_tokens(fields.logit_bias, card, "logit_bias")
    _check_tokens(fields.stop_token_ids, card, "stop_token_ids")
    ends = () if fields.ignore_eos else card.eos_token_ids
    # a random seed stays exact in clients whose numbers are all doubles
    seed = secrets.randbelow(2**53) if fields.seed is None else fields.seed % 2**64
    return Sampling(
        max_tokens=max_tokens,
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
        num_logprobs=fields.num_logprobs,
        structure=fields.structure,
    )


def _check_tokens(tokens: list[int] | dict[int, float], card: ModelCard, param: str) -> None:
    for token in tokens:
        if not 0 <= token < card.vocab_size:
            raise BadRequest(
                f"'{param}' holds the token id {token}, but the model's ids are 0 to "
                f"{card.vocab_size - 1}.",
                param,
            )
