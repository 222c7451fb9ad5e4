from __future__ import annotations

import pytest

from mpqtool.runtime import integer_ops, product_ops, table_ops


def test_an_operator_has_one_definition() -> None:
    with pytest.raises(ValueError, match="QLinearMul"):
        integer_ops._merged(product_ops.OPERATORS, table_ops.OPERATORS, product_ops.OPERATORS)
    assert integer_ops.OPERATORS.keys() >= product_ops.OPERATORS.keys() | table_ops.OPERATORS.keys()
