"""What a request asks for: an SLO class by name, or its own two numbers."""

from __future__ import annotations

from pydantic import ValidationError

from wisp.core.slo import Slo, SloChoice
from wisp.errors import BadRequest
from wisp.openai.schemas import SloFields

SLO_HEADER = "x-wisp-slo"


def chosen_slo(in_body: SloFields | str | None, header: str | None) -> SloChoice:
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
