"""The node cases of onnx.backend.test, which belong to which operator, and which of them are not passed.

python tests/node_suite.py Resize Upsample     runs the cases of these operators, and says what fails
python tests/node_suite.py                     the same for every operator with a handler
"""

from __future__ import annotations

__all__ = ["Case", "cases", "claimed", "run", "skipped"]

import contextlib
import dataclasses
import functools
import io
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.loader
import onnx.backend.test.runner

from mpqtool.importer import supported
from mpqtool.importer.backend import Backend


@dataclasses.dataclass(frozen=True)
class Case:
    """One case of the suite.

    Attributes:
        name: As in the suite, ``test_add``.
        subject: The operators it is about: for the expansion of a function, that function.
        operators: All operators in its graphs.
        numbers: Whether all inputs and outputs are tensors of numbers.
    """

    name: str
    subject: tuple[str, ...]
    operators: tuple[str, ...]
    numbers: bool
    case: Any = dataclasses.field(repr=False, compare=False)


# Why a case of a claimed operator is not passed; patterns of whole names.
SKIPPED: dict[str, str] = {
    r"test_cast(like)?_.*FLOAT4E2M1.*": "torch has no type that holds 4-bit floats",
    r"test_(de)?quantizelinear_float4e2m1": "torch has no type that holds 4-bit floats",
    r"test_training_dropout(_default)?(_mask)?": "the expected mask is what numpy's generator draws",
    r"test_range_.*_expanded": "its Loop counts by the data",
    r"test_affine_grid_.*_expanded": "its If depends on the data",
    r"test_attention_4d_causal_fp16_expanded": (
        "numpy rounds its softmax to float16 at every step; 2 of 192 elements differ in the last places"
    ),
    r"test_dft_inverse(_opset19)?": (
        "it expects the rounding noise of numpy's transform, 1e-6 where the exact result is 0"
    ),
    r"test_resize_downsample_scales_(linear|cubic)_align_corners": (
        "it takes the fractional size for the length; the operator's text and ONNX Runtime take the whole one"
    ),
    r"test_maxunpool_export_with_output_shape": (
        "it unpools without output_shape and then pads; ONNX Runtime and torch unpool into output_shape"
    ),
}


@functools.cache
def cases() -> dict[str, Case]:
    """All node cases by name."""
    with warnings.catch_warnings(action="ignore"):  # numpy's, where a case is about overflow
        loaded = {case.name: case for case in onnx.backend.test.loader.load_model_tests(kind="node")}
    found = {}
    for name, case in loaded.items():
        plain = loaded.get(re.sub(r"_expanded.*$", "", name), case)
        found[name] = Case(
            name, _operators(plain.model), _operators(case.model), _is_numbers(case.model), case
        )
    return found


def claimed() -> dict[str, Case]:
    """The cases that the importer must pass: about an operator that it handles, on tensors of numbers."""
    handled = set(supported())
    return {
        name: case
        for name, case in cases().items()
        if case.numbers and (set(case.subject) <= handled or set(case.operators) <= handled)
    }


def skipped(name: str) -> str | None:
    """Why a case is not passed, or None."""
    return next((reason for pattern, reason in SKIPPED.items() if re.fullmatch(pattern, name)), None)


def run(case: Case) -> None:
    """Run a case, and fail if an output is not the one of the standard."""
    prepared = Backend.prepare(case.case.model)
    for inputs, expected in case.case.data_sets:
        outputs = prepared.run(_arrays(inputs))
        with np.errstate(invalid="ignore"):
            onnx.backend.test.runner.Runner.assert_similar_outputs(
                _arrays(expected), outputs, rtol=case.case.rtol, atol=case.case.atol
            )


def _arrays(values: Iterable[Any]) -> list[Any]:
    """The suite has some numbers, of types that numpy does not know, as protobuf messages."""
    return [onnx.numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in values]


def _operators(model: onnx.ModelProto) -> tuple[str, ...]:
    return tuple(sorted(set(_walk(model.graph))))


def _walk(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _walk(attribute.g)


def _is_numbers(model: onnx.ModelProto) -> bool:
    values = [*model.graph.input, *model.graph.output]
    return all(
        value.type.HasField("tensor_type") and value.type.tensor_type.elem_type != onnx.TensorProto.STRING
        for value in values
    )


def _report(wanted: set[str]) -> None:
    passed = 0
    chosen = [c for c in claimed().values() if not wanted or wanted & set(c.subject)]
    for case in chosen:
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # torch.fx prints the code around an error
                run(case)
        except Exception as error:
            line = " ".join(str(error).split())[:200]
            print(f"{case.name}: {type(error).__name__}: {line}  [{skipped(case.name) or 'NOT LISTED'}]")  # noqa: T201
        else:
            passed += 1
    print(f"{passed} of {len(chosen)} cases passed")  # noqa: T201


if __name__ == "__main__":
    _report(set(sys.argv[1:]))
