"""The standard's own node cases, against the importer alone: each is passed, or listed with its reason."""

from __future__ import annotations

import re

import pytest
from node_suite import SKIPPED, claimed, run, skipped
from operators_page import PAGE, page

from mpqtool.passes.errors import UnsupportedOpError

CASES = claimed()


@pytest.mark.parametrize("name", [name for name in CASES if skipped(name) is None])
def test_case(name: str) -> None:
    run(CASES[name])


@pytest.mark.parametrize("name", [name for name in CASES if skipped(name) is not None])
@pytest.mark.filterwarnings("ignore")
def test_what_is_listed_is_still_not_passed(name: str) -> None:
    with pytest.raises((AssertionError, UnsupportedOpError)):
        run(CASES[name])


@pytest.mark.parametrize("pattern", SKIPPED)
def test_every_listed_pattern_is_of_a_case(pattern: str) -> None:
    assert any(re.fullmatch(pattern, name) for name in CASES)


def test_the_page_is_what_is_true() -> None:
    assert PAGE.read_text() == page(), "run: python tests/operators_page.py"


def test_few_cases_are_listed() -> None:
    assert len([name for name in CASES if skipped(name) is not None]) < 0.02 * len(CASES)
