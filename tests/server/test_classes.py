from __future__ import annotations

import math

import pytest

from wisp.config import ServerConfig, SloClass
from wisp.core.slo import Slo
from wisp.errors import BadRequest
from wisp.server.classes import SloClasses


@pytest.fixture
def classes() -> SloClasses:
    return SloClasses(
        ServerConfig(
            slo=SloClass(tokens_per_s=5, first_token_s=3, priority=2),
            slo_classes={"gold": SloClass(tokens_per_s=40, priority=9)},
        )
    )


def test_whoever_asks_for_nothing_gets_the_default(classes: SloClasses) -> None:
    default = Slo(name="default", tokens_per_s=5, first_token_s=3, priority=2)
    assert classes.promise(None) == classes.promise("default") == default


def test_a_class_by_name_fills_in_its_own_defaults(classes: SloClasses) -> None:
    gold = Slo(name="gold", tokens_per_s=40, first_token_s=2, priority=9)
    assert classes.promise("gold") == gold


def test_a_requests_own_numbers_get_no_priority_of_their_own(classes: SloClasses) -> None:
    asked = Slo(name="gold", tokens_per_s=1, first_token_s=4, priority=99)
    assert classes.promise(asked) == Slo(name="custom", tokens_per_s=1, first_token_s=4, priority=2)


def test_an_unknown_class_names_those_that_exist(classes: SloClasses) -> None:
    with pytest.raises(BadRequest, match="no SLO class 'silver': use one of default, gold"):
        classes.promise("silver")


@pytest.mark.parametrize(
    "numbers", [(0, 1), (1, 0), (-1, 1), (math.nan, 1), (1, math.inf), (1e-300, 1), (1, 1e300)]
)
def test_numbers_that_promise_nothing_are_refused(
    classes: SloClasses, numbers: tuple[float, float]
) -> None:
    with pytest.raises(BadRequest, match=r"0\.001 to 1e\+06, not"):
        classes.promise(Slo(tokens_per_s=numbers[0], first_token_s=numbers[1]))
