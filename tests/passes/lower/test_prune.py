from __future__ import annotations

import itertools
import pathlib

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from foreign_conv import conv_model, verified
from graphs import calibrated, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, cases
from verified import Files, write_files

from mpqtool.passes import metadata
from mpqtool.passes.lower import lowering_passes
from mpqtool.passes.lower.prune import PruneKernelsPass
from mpqtool.passes.pipelines import quantize
from mpqtool.passes.values import array, set_array
from mpqtool.runtime.reference import Reference
from mpqtool.runtime.session import LEVELS
from mpqtool.simulate import simulator_from_qdq

_SHAPES = {
    "w0": (6, 2, 3, 3), "w1": (5, 6, 1, 1), "w2": (6, 1, 3, 3), "w3": (3, 6), "w4": (3, 96),
    "w5": (5, 6, 3, 3), "w6": (5, 12, 1, 1), "w7": (6, 2, 1, 1), "w8": (6, 3, 1, 1),
}  # fmt: skip


def _files(folder: pathlib.Path, body: str, bits: dict[str, list[int]], *, bias: float = 0.5) -> Files:
    """Verification files of a network with input ``x`` of 2 channels, 8x8, and output ``y``."""
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape) for name, shape in _SHAPES.items() if name in body}
    result = "float[N, 3]" if "Gemm" in body else "float[A, B, C, D]"
    text = f"net (float[N, 2, 8, 8] x) => ({result} y) {{ {body} }}"
    model = normal(text, {**weights, "b0": np.full(6, bias)})
    feeds = {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)}
    plan = calibrated(model, feeds)
    changed = [w.model_copy(update={"bits": tuple(bits.get(w.name, w.bits))}) for w in plan.weights]
    return write_files(folder, model, feeds, plan.replaced(weights=changed))


def _kernels(path: pathlib.Path) -> dict[str, int]:
    """Kernels of each weight in an integer file."""
    notes = [node.metadata_props for node in ir.load(path).graph]
    return {n[metadata.WEIGHT]: len(n[metadata.WEIGHT_BITS]) for n in notes if metadata.WEIGHT in n}


_FIRST = "c = Conv <pads = [1, 1, 1, 1]> (x, w0, b0) r = Relu (c)"
_LAST = "y = Conv (p, w1)"
_FIRES = {
    "conv": (f"{_FIRST} y = Conv (r, w1)", {"w0": [0, 4, 4, 0, 4, 4]}, {"w0": 4, "w1": 5}),
    "max-pool": (
        f"{_FIRST} p = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r) {_LAST}",
        {"w0": [4, 4, 0, 4, 4, 0]},
        {"w0": 4, "w1": 5},
    ),
    "table": (
        f"c = Conv (x, w0, b0) t = Elu (c) {_LAST}".replace("(p,", "(t,"),
        {"w0": [0, 4, 4, 0, 4, 4]},
        {"w0": 4, "w1": 5},
    ),
    "sigmoid": (
        f"c = Conv (x, w0, b0) s = Sigmoid (c) l = LeakyRelu <alpha = 0.2> (s) {_LAST}".replace("(p,", "(l,"),
        {"w0": [0, 4, 4, 0, 4, 4]},
        {"w0": 4, "w1": 5},
    ),
    "table-global-average": (
        "c = Conv (x, w0, b0) h = Tanh (c) g = GlobalAveragePool (h) f = Flatten (g) "
        "y = Gemm <transB = 1> (f, w3)",
        {"w0": [0, 4, 0, 4, 4, 4]},
        {"w0": 4, "w3": 3},
    ),
    "average": (
        f"{_FIRST} p = AveragePool <kernel_shape = [2, 2]> (r) {_LAST}",
        {"w0": [4, 4, 0, 4, 4, 0]},
        {"w0": 4, "w1": 5},
    ),
    "global-average": (
        f"{_FIRST} g = GlobalAveragePool (r) f = Flatten (g) y = Gemm <transB = 1> (f, w3)",
        {"w0": [0, 4, 0, 4, 4, 4]},
        {"w0": 4, "w3": 3},
    ),
    "flatten": (
        f"{_FIRST} p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r) f = Flatten (p) "
        "y = Gemm <transB = 1> (f, w4)",
        {"w0": [0, 4, 0, 4, 4, 4]},
        {"w0": 4, "w4": 3},
    ),
    "depthwise": (
        f"{_FIRST} d = Conv <group = 6> (r, w2) p = Relu (d) {_LAST}",
        {"w0": [0, 4, 4, 4, 4, 4], "w2": [4, 4, 0, 4, 4, 4]},
        {"w0": 4, "w2": 4, "w1": 5},
    ),
    "depthwise-padded": (  # a kernel of zeros makes a constant of anything; a constant is none at the border
        f"{_FIRST} d = Conv <group = 6, pads = [1, 1, 1, 1]> (r, w2) p = Relu (d) {_LAST}",
        {"w0": [0, 4, 4, 4, 4, 4], "w2": [4, 4, 0, 4, 0, 4]},
        {"w0": 4, "w2": 4, "w1": 5},
    ),
    "concat": (
        f"{_FIRST} e = Conv (x, w7) p = Concat <axis = 1> (e, r) y = Conv (p, w6)",
        {"w0": [0, 4, 4, 4, 0, 4], "w7": [4, 0, 0, 0, 4, 4]},
        {"w0": 4, "w7": 4, "w6": 5},
    ),
    "all-but-4": (f"{_FIRST} y = Conv (r, w1)", {"w0": [0] * 6}, {"w0": 4, "w1": 5}),
}


@pytest.mark.parametrize(("body", "bits", "kernels"), _FIRES.values(), ids=_FIRES)
def test_constant_kernels_are_removed(
    tmp_path: pathlib.Path, body: str, bits: dict[str, list[int]], kernels: dict[str, int]
) -> None:
    files = _files(tmp_path, body, bits)

    result = files.verify(simulate=simulator_from_qdq(files.qdq))

    assert _kernels(files.integer) == kernels
    assert result.first_different is None
    assert result.passed
    assert set(result.engines) == {"simulation", *(f"ort:{level}" for level in LEVELS)}


def test_real_0_may_be_padded(tmp_path: pathlib.Path) -> None:
    body = f"{_FIRST} a = Conv (r, w1) b = Conv <pads = [1, 1, 1, 1]> (r, w5) y = Concat <axis = 1> (a, b)"
    files = _files(tmp_path, body, {"w0": [0, 4, 4, 0, 4, 4]}, bias=-0.5)

    assert _kernels(files.integer) == {"w0": 4, "w1": 5, "w5": 5}
    assert files.verify(simulate=simulator_from_qdq(files.qdq)).passed


_STAYS = {
    "sum": f"{_FIRST} e = Conv (x, w7) p = Add (e, r) {_LAST}",
    "product": f"{_FIRST} e = Conv (x, w7) p = Mul (e, r) {_LAST}",
    "graph-output": f"{_FIRST} y = Identity (r)",
    "padded-and-not-0": f"{_FIRST} y = Conv <pads = [1, 1, 1, 1]> (r, w1)",
    "as-fast": f"{_FIRST} y = Conv (r, w1)",
    "groups": f"{_FIRST} y = Conv <group = 2> (r, w8)",
    "island": f"{_FIRST} p = Softmax <axis = 1> (r) {_LAST}",
    "twice-in-a-concat": f"{_FIRST} p = Concat <axis = 1> (r, r) y = Conv (p, w6)",
}


@pytest.mark.parametrize("body", _STAYS.values(), ids=_STAYS)
def test_other_kernels_stay(tmp_path: pathlib.Path, body: str) -> None:
    as_fast = body == _STAYS["as-fast"]  # 5 kernels are not
    files = _files(tmp_path, body, {"w0": [0, 4, 4, 4, 4 if as_fast else 0, 4]})

    assert _kernels(files.integer)["w0"] == 6
    assert not any(metadata.KEPT in node.metadata_props for node in ir.load(files.integer).graph)
    assert files.verify().passed


def test_the_constant_goes_into_the_bias(tmp_path: pathlib.Path) -> None:
    files = _files(tmp_path, f"{_FIRST} y = Conv (r, w1)", {"w0": [0, 4, 4, 4, 0, 4]})
    expected = files.verify()
    bias = [node for node in ir.load(files.integer).graph if node.op_type == "QLinearConv"][1].inputs[8]

    def forget(model: ir.Model) -> None:
        set_array(model.graph.initializers[str(bias.name)], np.zeros(5, np.int32))

    files.change(forget)

    assert expected.passed
    assert files.verify().codes_different > 0


def _lowered(qdq: ir.Model, *, step: int | None) -> ir.Model:
    model = qdq.clone()
    for done in lowering_passes("cpu"):
        if not isinstance(done, PruneKernelsPass):
            done(model)
        elif step is not None:
            PruneKernelsPass(step=step)(model)
    return model


@pytest.mark.parametrize(
    ("zeros", "step", "left"),
    [(1, 1, 15), (16, 1, 1), (1, 8, 16), (7, 8, 16), (8, 8, 8), (11, 8, 8), (12, 8, 4), (16, 8, 4)],
)
def test_as_many_are_left_as_are_fast(rng: np.random.Generator, zeros: int, step: int, left: int) -> None:
    weights = {"v": rng.normal(size=(16, 2, 1, 1)), "w": rng.normal(size=(3, 16, 1, 1))}
    text = "net (float[N, 2, 4, 4] x) => (float[A, B, C, D] y) { c = Conv (x, v) y = Conv (c, w) }"
    model, feeds = normal(text, weights), {"x": rng.normal(size=(1, 2, 4, 4)).astype(np.float32)}
    plan = calibrated(model, feeds)
    first = plan.weights[0].model_copy(update={"bits": (*[0] * zeros, *[4] * (16 - zeros))})

    lowered = _lowered(quantize(model, plan.replaced(weights=[first, plan.weights[1]])), step=step)

    (shape,) = {node.outputs[0].shape[1] for node in lowered.graph if node.outputs[0].name == "c.codes"}
    assert shape == left


@settings(max_examples=25, deadline=None)
@given(cases(), st.integers(0, 99))
def test_every_code_that_is_left_is_what_it_was(case: Case, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = [
        w.model_copy(update={"bits": tuple(b if rng.random() < 0.6 else 0 for b in w.bits)})
        for w in case.plan.weights
    ]
    qdq = quantize(case.model, case.plan.replaced(weights=weights))
    whole, pruned = (Reference(_lowered(qdq, step=step)) for step in (None, 1))

    expected, found = whole.run(case.feeds), pruned.run(case.feeds)
    by_ort = run_onnx(_lowered(qdq, step=1), case.feeds, expose=[n for n in found if n != "y"])

    assert whole.kept == {}
    for name, codes in found.items():
        kept = pruned.kept.get(name)
        left = expected[name] if kept is None else expected[name].take(kept, axis=1)
        np.testing.assert_array_equal(codes, left, err_msg=name)
        if codes.dtype == np.uint8:
            np.testing.assert_array_equal(by_ort[name], left, err_msg=name)


def test_second_run_changes_nothing(tmp_path: pathlib.Path) -> None:
    files = _files(tmp_path, f"{_FIRST} y = Conv (r, w1)", {"w0": [0, 4, 4, 0, 4, 4]})
    model = ir.load(files.qdq)
    for step in itertools.takewhile(lambda s: not isinstance(s, PruneKernelsPass), lowering_passes("cpu")):
        step(model)

    assert PruneKernelsPass()(model).modified
    assert not PruneKernelsPass()(model).modified


@pytest.mark.parametrize("numbers", [[0], [3], [0, 1, 2, 5], [1, 3, 5], [0, 1, 7, 8, 9, 200]])
def test_ranges_are_read_back(numbers: list[int]) -> None:
    assert metadata.from_ranges(metadata.ranges(numbers)) == numbers


@pytest.mark.parametrize("place", ["kernels", "sink"])
def test_each_kernel_has_its_zero_point(tmp_path: pathlib.Path, place: str) -> None:
    """Codes that are 0 less the zero point of the first kernel are none less their own."""
    rng, kernels = np.random.default_rng(1), 24
    first = rng.integers(1, 256, (kernels, 2, 3, 3)).astype(np.uint8)
    first_zero, last_zero = np.full(kernels, 250, np.uint8), np.array([3, 250, 100, 17], np.uint8)
    first_zero[0], first[8:16] = 3, 3 if place == "kernels" else 250
    last = rng.integers(0, 256, (4, kernels, 1, 1)).astype(np.uint8)
    body = (
        "cq = QuantizeLinear (c, s1, z1) d = DequantizeLinear (cq, s1, z1) "
        "v = DequantizeLinear <axis = 0> (vq, vs, vz) e = Conv (d, v) "
        "eq = QuantizeLinear (e, s1, z1) y = DequantizeLinear (eq, s1, z1)"
    )
    qdq, feeds = conv_model(
        "float[N, 4, 6, 6] y", body, wq=first, wz=first_zero, ws=np.full(kernels, 0.002, np.float32),
        b=np.abs(rng.normal(size=kernels)).astype(np.float32) + 1,
        vq=last, vz=last_zero, vs=np.full(4, 0.01, np.float32),
    )  # fmt: skip

    result = verified(tmp_path, qdq, feeds)

    assert result.passed
    assert result.qdq_max_lsb is not None
    assert result.qdq_max_lsb <= 1
    left = kernels if place == "kernels" else kernels - 8
    model = ir.load(tmp_path / "a.int.onnx")
    weight = array(next(node for node in model.graph if node.op_type == "QLinearConv").inputs[3])
    assert weight is not None
    assert len(weight) == left
