"""What commands share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from mpqtool.cli.common import heavy_imports


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.enable()
    gc.unfreeze()


def test_modules_are_loaded_without_collection_and_left_alone_later() -> None:
    with heavy_imports():
        assert not gc.isenabled()
        loaded = [[]]
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    assert not any(found is loaded for found in gc.get_objects())


def test_collection_goes_on_where_an_import_fails() -> None:
    with pytest.raises(ImportError), heavy_imports():
        import mpqtool.nothing_of_that_name  # noqa: F401
    assert gc.isenabled()


def test_a_second_block_freezes_nothing_of_the_run_before() -> None:
    with heavy_imports():
        pass
    before = gc.get_freeze_count()
    of_a_run = [[] for _ in range(100)]
    with heavy_imports():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before
    assert len(of_a_run) == 100


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    with heavy_imports():
        pass
    assert not gc.isenabled()
    assert gc.get_freeze_count() == 0
