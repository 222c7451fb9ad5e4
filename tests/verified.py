"""A QDQ file, the integer file made of it, and inputs: what verification is tried on."""

from __future__ import annotations

__all__ = ["Files", "write_files"]

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from mpqtool.passes import pipelines
from mpqtool.passes.plan import Plan
from mpqtool.runtime.verify import VerifyResult, verify

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Files:
    """A QDQ and an integer file, and inputs for them."""

    qdq: pathlib.Path
    integer: pathlib.Path
    feeds: dict[str, Array]

    def verify(self, *, batches: int = 1, **options: Any) -> VerifyResult:
        return verify(self.integer, self.qdq, [self.feeds] * batches, threads=1, **options)

    def change(self, change: Callable[[ir.Model], None]) -> None:
        """Alter the integer file."""
        model = ir.load(self.integer)
        change(model)
        ir.save(model, self.integer)


def write_files(folder: pathlib.Path, model: ir.Model, feeds: dict[str, Array], plan: Plan) -> Files:
    qdq = pipelines.quantize(model, plan)
    files = Files(folder / "a.qdq.onnx", folder / "a.int.onnx", feeds)
    ir.save(qdq, files.qdq)
    ir.save(pipelines.lower(qdq), files.integer)
    return files
