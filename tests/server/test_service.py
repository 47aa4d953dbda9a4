from __future__ import annotations

from wisp.config import ServerConfig, SloClass
from wisp.core.slo import Slo
from wisp.server.service import slo_classes


def test_a_class_of_the_configuration_fills_in_its_own_defaults() -> None:
    classes = slo_classes(
        ServerConfig(
            slo=SloClass(tokens_per_s=5, first_token_s=3, priority=2),
            slo_classes={"gold": SloClass(tokens_per_s=40, priority=9)},
        )
    )
    assert classes.all == [
        Slo(name="default", tokens_per_s=5, first_token_s=3, priority=2),
        Slo(name="gold", tokens_per_s=40, first_token_s=2, priority=9),
    ]
