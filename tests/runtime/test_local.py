"""The QDQ file, layer by layer: faults of lowering that all engines share."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graphs import calibrated, normal, residual_cnn
from numpy.typing import NDArray
from onnx_text import parse
from verified import Files, write_files

from mpqtool.passes import metadata, pipelines
from mpqtool.passes.lower import conv as conv_lowering

Array = NDArray[Any]


@pytest.fixture
def feeds(rng: np.random.Generator) -> dict[str, Array]:
    return {"x": rng.normal(size=(16, 2, 8, 8)).astype(np.float32)}


def _lower_again(files: Files, **options: Any) -> Files:
    ir.save(pipelines.lower(ir.load(files.qdq), **options), files.integer)
    return files


def _dropped_clamp(monkeypatch: pytest.MonkeyPatch) -> None:
    real = conv_lowering.requantization

    def unclamped(*args: Any, **options: Any) -> Any:
        end = real(*args, **options)
        return end and dataclasses.replace(end, low=0, high=255)

    monkeypatch.setattr(conv_lowering, "requantization", unclamped)


def _shifted_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    real = conv_lowering.dequantized_bias

    def shifted(value: Any, unit: Any) -> Any:
        return real(value, unit) + np.rint(0.3 / unit).astype(np.int32)  # the codes below are 0.03 to 0.1

    monkeypatch.setattr(conv_lowering, "dequantized_bias", shifted)


@pytest.mark.parametrize("alter", [_dropped_clamp, _shifted_bias])
@pytest.mark.parametrize("target", ["cpu", "standard", "cuda"])
def test_a_fault_of_lowering_fails_though_all_engines_agree(
    tmp_path: pathlib.Path, rng: np.random.Generator, feeds: dict[str, Array],
    monkeypatch: pytest.MonkeyPatch, alter: Callable[[pytest.MonkeyPatch], None], target: str,
) -> None:  # fmt: skip
    model = residual_cnn(rng)
    plan = calibrated(model, feeds, activation_bits=6)
    beyond = {"x": 3 * feeds["x"]}
    files = dataclasses.replace(write_files(tmp_path, model, feeds, plan), feeds=beyond)
    assert _lower_again(files, target=target).verify().passed
    alter(monkeypatch)

    result = _lower_again(files, target=target).verify()

    assert result.codes_different == 0
    assert not result.passed
    assert result.local_max_lsb is not None
    assert result.local_max_lsb > 1
    said = str(result.first_different)
    assert said.startswith("r0.codes (")
    assert said.endswith(" codes from what the QDQ file computes of the same inputs, allowed 1)")


def test_differences_do_not_add_up(
    tmp_path: pathlib.Path, rng: np.random.Generator, feeds: dict[str, Array]
) -> None:
    """One altered code of the input moves many behind it: they are judged on what is there."""
    model = residual_cnn(rng)
    files = write_files(tmp_path, model, feeds, calibrated(model, feeds))

    result = files.verify()

    assert result.passed
    assert result.local_max_lsb is not None
    assert result.qdq_rate is not None
    assert result.local_rate is not None
    assert result.local_max_lsb <= 1
    assert result.local_rate <= result.qdq_rate
    assert result.local_left_out == 0
    assert {r.name for r in result.tensors if r.local_compared} == {
        r.name for r in result.tensors if r.kind == "codes"
    }


_PRUNED = """
net (float[N, 2, 8, 8] x) => (float[N, 3] y) {
    c = Conv (x, w0, b0)
    r = Relu (c)
    d = Conv (r, w1)
    g = GlobalAveragePool (d)
    f = Flatten (g)
    y = Gemm <transB = 1> (f, w2)
}
"""


def _pruned(folder: pathlib.Path, rng: np.random.Generator, feeds: dict[str, Array]) -> Files:
    shapes = {"w0": (6, 2, 3, 3), "w1": (5, 6, 1, 1), "w2": (3, 5)}
    weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    model = normal(_PRUNED, {**weights, "b0": np.full(6, 0.5)})
    plan = calibrated(model, feeds)
    w0 = plan.weights[0].model_copy(update={"bits": (0, 4, 4, 0, 4, 4)})
    return write_files(folder, model, feeds, plan.replaced(weights=[w0, *plan.weights[1:]]))


def test_removed_channels_are_those_of_the_qdq_file(
    tmp_path: pathlib.Path, rng: np.random.Generator, feeds: dict[str, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _pruned(tmp_path, rng, feeds)
    kept = [n.metadata_props[metadata.KEPT] for n in ir.load(files.integer).graph
            if metadata.KEPT in n.metadata_props]  # fmt: skip
    result = files.verify()

    assert kept[0] == "1-2,4-5"
    assert result.passed
    assert result.local_max_lsb is not None
    assert result.local_max_lsb <= 1


def test_the_codes_of_other_tools_are_int8(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    text = """
    net (float[N, 2, 8, 8] x) => (float[N, 4, 6, 6] y) {
        xq = QuantizeLinear (x, s, z)
        xd = DequantizeLinear (xq, s, z)
        w = DequantizeLinear <axis = 0> (wq, ws, wz)
        c = Conv (xd, w, b)
        cq = QuantizeLinear (c, s, z)
        y = DequantizeLinear (cq, s, z)
    }
    """
    weights = {
        "s": np.float32(0.05), "z": np.int8(-3), "wq": rng.integers(-127, 128, (4, 2, 3, 3)).astype(np.int8),
        "ws": np.full(4, 0.003, np.float32), "wz": np.zeros(4, np.int8),
        "b": rng.normal(size=4).astype(np.float32),
    }  # fmt: skip
    x = {"x": rng.normal(size=(16, 2, 8, 8)).astype(np.float32)}
    files = Files(tmp_path / "q.onnx", tmp_path / "i.onnx", x)
    ir.save(parse(text, {name: np.asarray(v) for name, v in weights.items()}, opset=13), files.qdq)

    result = _lower_again(files).verify()

    assert result.passed
    assert result.local_max_lsb is not None
    assert result.local_max_lsb <= 1
    assert {r.name for r in result.tensors if r.local_compared} == {"x.codes", "c.codes"}


def test_a_result_in_real_numbers_is_held_against_the_qdq_file(
    tmp_path: pathlib.Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mpqtool.passes.lower import gemm

    text = "net (float[N, 8] x) => (float[N, 4] y) { y = Gemm <transB = 1> (x, w, b) }"
    x = {"x": rng.normal(size=(16, 8)).astype(np.float32)}
    model = normal(text, {"w": rng.normal(size=(4, 8)), "b": rng.normal(size=4)})
    files = write_files(tmp_path, model, x, calibrated(model, x))
    assert files.verify().passed
    real = gemm.dequantized_bias
    monkeypatch.setattr(gemm, "dequantized_bias", lambda *args: real(*args) * 2)

    result = _lower_again(files).verify()

    assert result.codes_different == 0
    assert not result.passed
    assert result.first_different == "y (not what the QDQ file computes of the same inputs)"


def test_softmax_may_differ_by_what_its_exponentials_are_rounded(
    tmp_path: pathlib.Path, rng: np.random.Generator
) -> None:
    """Over 1000 codes; its layers have scales that ask for the float64 sum."""
    text = """
    net (float[N, 1000] x) => (float[N, 4] y) {
        p = Softmax <axis = 1> (x)
        y = Gemm <transB = 1> (p, w)
    }
    """
    x = {"x": rng.normal(size=(8, 1000)).astype(np.float32) * np.float32(2)}
    model = normal(text, {"w": rng.normal(size=(4, 1000))})

    result = write_files(tmp_path, model, x, calibrated(model, x)).verify()

    assert result.passed
    assert next(r for r in result.tensors if r.name == "p.codes").local_compared == 8000
