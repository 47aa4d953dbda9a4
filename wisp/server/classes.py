"""The SLO classes of the configuration, by name."""

from __future__ import annotations

from msgspec import structs

from wisp.config import ServerConfig, SloClass
from wisp.core.slo import Slo, SloChoice
from wisp.errors import BadRequest

_MIN, _MAX = 1e-3, 1e6  # tokens/s and seconds: nobody means more, and no clock is to overflow


class SloClasses:
    def __init__(self, config: ServerConfig) -> None:
        self.default = _slo("default", config.slo)
        self._by_name = {name: _slo(name, kind) for name, kind in config.slo_classes.items()}
        self._by_name["default"] = self.default

    @property
    def all(self) -> list[Slo]:
        """By name; a "custom" one is nobody's but its request's."""
        return [self._by_name[name] for name in sorted(self._by_name)]

    def promise(self, asked: SloChoice) -> Slo:
        """What a request gets; its own numbers have the default class's priority.

        Raises BadRequest.
        """
        if asked is None:
            return self.default
        if isinstance(asked, str):
            if asked not in self._by_name:
                names = ", ".join(sorted(self._by_name))
                raise BadRequest(f"there is no SLO class '{asked}': use one of {names}", "slo")
            return self._by_name[asked]
        for number in (asked.tokens_per_s, asked.first_token_s):
            if not _MIN <= number <= _MAX:
                raise BadRequest(
                    f"an SLO's rate and first-token time are {_MIN:g} to {_MAX:g}, not {number:g}",
                    param="slo",
                )
        return structs.replace(asked, name="custom", priority=self.default.priority)


def _slo(name: str, kind: SloClass) -> Slo:
    return Slo(
        name=name,
        tokens_per_s=kind.tokens_per_s,
        first_token_s=kind.first_token_s,
        priority=kind.priority,
    )
