"""The operators that move elements, against the node cases of the standard."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from node_suite import cases

from mpqtool.runtime.move_ops import OPERATORS

_OPS = sorted(op for _, op in OPERATORS)


@pytest.mark.slow
@pytest.mark.parametrize("op", _OPS)
def test_means_what_the_standard_says(op: str) -> None:
    passed = 0
    for case in cases().values():
        model = case.case.model
        if not case.numbers or case.operators != (op,) or len(model.graph.node) != 1:
            continue
        if model.opset_import[0].version < 13:
            continue
        node = next(iter(ir.from_proto(model).graph))
        for feeds, expected in case.case.data_sets:
            given = dict(zip([value.name for value in model.graph.input], feeds, strict=True))
            inputs = [None if value is None else np.asarray(given[value.name]) for value in node.inputs]
            made = OPERATORS["", op](node, inputs)
            if made is NotImplemented:
                continue
            results = made if isinstance(made, tuple) else (made,)
            for result, wanted in zip(results, expected, strict=True):
                np.testing.assert_array_equal(result, wanted, err_msg=case.name, strict=True)
            passed += 1
    assert passed


def test_a_resize_that_computes_new_values_is_left_to_others() -> None:
    node = ir.node("Resize", [], {"mode": "linear"})
    x = np.zeros((1, 1, 2, 2), np.float32)
    assert OPERATORS["", "Resize"](node, [x, None, np.float32([1, 1, 2, 2])]) is NotImplemented
