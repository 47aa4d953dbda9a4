"""Long files of tests are begun before short ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.conftest import BEGUN_FIRST, pytest_collection_modifyitems

TESTS = Path(__file__).parent


def test_each_file_that_is_begun_first_is_there() -> None:
    assert not [name for name in BEGUN_FIRST if not (TESTS / name).is_file()]


def test_long_files_are_begun_first_and_the_others_keep_their_order() -> None:
    first, second, *_ = BEGUN_FIRST
    names = ("core/test_slo.py", second, "test_wire.py", "edge/test_link.py", first)
    items: list[Any] = [SimpleNamespace(path=TESTS / name) for name in names]
    pytest_collection_modifyitems(items)
    begun = [str(item.path.relative_to(TESTS)) for item in items]
    assert begun == [first, second, "core/test_slo.py", "test_wire.py", "edge/test_link.py"]
