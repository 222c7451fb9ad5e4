"""The tree of errors, and which one a user sees."""

from __future__ import annotations

import itertools

import mpqtool.errors as errors


def _chain(*chain: BaseException) -> BaseException:
    for outer, inner in itertools.pairwise(chain):
        outer.__cause__ = inner
    return chain[0]


def test_docstring_draws_the_tree() -> None:
    for name in errors.__all__:
        value = getattr(errors, name)
        if isinstance(value, type):
            assert issubclass(value, errors.USER_ERRORS)
            assert f"{name} " in (errors.__doc__ or ""), name


def test_innermost_of_ours_is_what_the_user_can_fix() -> None:
    ours = errors.ModelError("the file")
    chain = _chain(RuntimeError("pass manager"), errors.PassError("outer"), ours, OSError("disk"))
    assert errors.user_error(chain) is ours


def test_a_bug_is_not_for_the_user() -> None:
    assert errors.user_error(_chain(ValueError("bug"), KeyError("cause"))) is None
