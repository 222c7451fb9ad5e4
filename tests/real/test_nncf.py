"""A file that NNCF quantized, with the NNCF that the package index has."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import parse

import mpqtool
from mpqtool.coverage import lowered_layers
from mpqtool.passes.load import load_model
from mpqtool.runtime.verify import verify

pytestmark = pytest.mark.network

# NNCF, and what it needs beside the packages of this environment.
PACKAGES = (
    "nncf==3.4.0",
    "ninja==1.13.2",
    "openvino-telemetry==2025.2.0",
    "pydot==4.0.1",
    "tabulate==0.10.0",
)

QUANTIZE = """
import sys
import nncf, numpy as np, onnx
source, samples, out = sys.argv[1:]
x = np.load(samples)["x"]
data = nncf.Dataset([{"x": x[i : i + 1]} for i in range(len(x))])
onnx.save(nncf.quantize(onnx.load(source), data, subset_size=len(x)), out)
"""
NETWORK = """
net (float[N, 3, 10, 10] x) => (float[N, 5] y) {
    [c0] c0 = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    [r0] r0 = Relu (c0)
    [d] d = Conv <pads = [1, 1, 1, 1], group = 8> (r0, wd, bd)
    [dr] dr = Relu (d)
    [p] p = Conv (dr, wp, bp)
    [a] a = Add (p, r0)
    [ar] ar = Relu (a)
    [m] m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (ar)
    [e] e = Conv (m, we, be)
    [g] g = GlobalAveragePool (e)
    [f] f = Flatten (g)
    [h] h = Gemm (f, wg, bg)
    [hr] hr = Relu (h)
    [mm] mm = MatMul (hr, wm)
    [y] y = Add (mm, bm)
}
"""
SHAPES = {
    "w0": (8, 3, 3, 3), "b0": (8,), "wd": (8, 1, 3, 3), "bd": (8,), "wp": (8, 8, 1, 1), "bp": (8,),
    "we": (12, 8, 1, 1), "be": (12,), "wg": (12, 10), "bg": (10,), "wm": (10, 5), "bm": (5,),
}  # fmt: skip


@pytest.fixture(scope="module")
def packages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """NNCF, in a folder of its own, beside the packages of this environment."""
    cache = getattr(request.config, "cache", None)
    folder: pathlib.Path = cache.mkdir("nncf-3.4.0") if cache else tmp_path_factory.mktemp("nncf")
    if not (folder / "nncf" / "onnx").is_dir():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--no-deps",
            "--retries=1",
            "--target",
            str(folder),
        ]
        done = subprocess.run([*command, *PACKAGES], capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
            pytest.skip(f"cannot install {PACKAGES[0]}: {reason}")
    return folder


def test_all_layers_become_integer_and_every_code_is_proved(
    packages: pathlib.Path, tmp_path: pathlib.Path, rng: np.random.Generator
) -> None:
    weights = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in SHAPES.items()}
    x = rng.normal(size=(16, 3, 10, 10)).astype(np.float32)
    source, samples, qdq = (tmp_path / name for name in ("float.onnx", "x.npz", "qdq.onnx"))
    ir.save(parse(NETWORK, weights, opset=17), source)
    np.savez(samples, x=x)
    subprocess.run(
        [sys.executable, "-c", QUANTIZE, str(source), str(samples), str(qdq)],
        env={**os.environ, "PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=300,
        check=True,
    )
    assert any(node.op_type == "DequantizeLinear" for node in load_model(qdq).graph)

    path = mpqtool.lower(qdq, tmp_path / "int.onnx")

    layers = lowered_layers(path)
    assert (layers.integer, layers.float) == (6, 0), layers.lines()
    proof = verify(path, qdq, [{"x": x}], threads=1)
    assert proof.passed, proof.first_different
    assert proof.codes_different == 0
    assert proof.qdq_rate is not None
    # Rounding at ties, carried on by what follows; a wrong zero point or scale changes nearly all.
    assert proof.qdq_rate < 0.03
