"""What a run writes about a network whose sizes are open, and about a file that did not get smaller."""

from __future__ import annotations

import io
import pathlib

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import parse

import mpqtool
from mpqtool.reporter import Reporter


@pytest.mark.parametrize("sizes", ["8,8", "h,w"], ids=["fixed", "open"])
def test_open_sizes_cost_what_the_samples_cost(
    tmp_path: pathlib.Path, rng: np.random.Generator, sizes: str
) -> None:
    text = f"""net (float[n,2,{sizes}] x) => (float[n,3] y) {{
        c = Conv<pads=[1,1,1,1]>(x, k)
        r = Relu(c)
        g = GlobalAveragePool(r)
        f = Flatten(g)
        y = Gemm<transB=1>(f, w)
    }}"""
    ir.save(
        parse(text, {"k": rng.normal(size=(4, 2, 3, 3)), "w": rng.normal(size=(3, 4))}), tmp_path / "m.onnx"
    )
    np.savez(tmp_path / "m.npz", x=rng.normal(size=(40, 2, 8, 8)).astype(np.float32))
    stream = io.StringIO()
    result = mpqtool.quantize(
        tmp_path / "m.onnx", method="impq", out=tmp_path / "out", epochs=0, target_bits="W4A8",
        reporter=Reporter(stream=stream),
    ).result  # fmt: skip
    macs = 4 * 2 * 9 * 64 + 3 * 4
    assert result["cost"]["macs"] == macs
    assert result["cost"]["bitops"] == macs * 4 * 8
    assert result["bits"]["activations_eff"] == 8
    assert result["nodes"]["mac_share_integer"] == 1
    assert result["bytes"]["integer"] == (tmp_path / "out" / "model.int.onnx").stat().st_size
    assert ("sizes: " in stream.getvalue()) == (sizes == "h,w")
    found = f"warning: the integer file has {result['bytes']['integer']} bytes, more than the "
    assert f"{found}{result['bytes']['float']} of the float file" in stream.getvalue()
