"""Run graphs and compare what they give."""

from __future__ import annotations

__all__ = ["assert_equivalent", "run_onnx"]

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from mpqtool.runtime.session import make_session


def run_onnx(
    model: ir.Model | onnx.ModelProto,
    feeds: dict[str, NDArray[Any]],
    *,
    level: str = "disabled",
    expose: Iterable[str] = (),
) -> dict[str, NDArray[Any]]:
    """Run a model in ONNX Runtime, by default with its own rewrites off; also give the values ``expose``."""
    proto = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)
    if expose:
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        for name in expose:
            copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        proto = copy
    session = make_session(proto.SerializeToString(), level=level, threads=1)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def assert_equivalent(
    before: dict[str, NDArray[Any]], after: dict[str, NDArray[Any]], *, rtol: float, atol: float
) -> None:
    """Fail with the output name and the worst element. Tolerances have no default."""
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].dtype == after[name].dtype, name
        np.testing.assert_allclose(
            after[name], before[name], rtol=rtol, atol=atol, err_msg=f"output {name!r}"
        )
