from __future__ import annotations

import io
import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import parse

from mpqtool.checkpoint import Checkpoint
from mpqtool.crosscheck import check_normal_form
from mpqtool.data import Split
from mpqtool.errors import CheckpointError, DataError, ModelError, UnsupportedOpError
from mpqtool.job import Job, prepare
from mpqtool.options import QuantizeOptions
from mpqtool.passes.pipelines import normalize
from mpqtool.reporter import Reporter
from mpqtool.run_data import hold_out

TEXT = "net (float[2,3] x) => (float[2,4] y) { y = MatMul (x, w) }"


def _saved(tmp_path: pathlib.Path, rng: np.random.Generator) -> tuple[pathlib.Path, ir.Model]:
    model = parse(TEXT, {"w": rng.normal(size=(3, 4)).astype(np.float32)})
    ir.save(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx", normalize(model)


def _split_of(rng: np.random.Generator, samples: int) -> Split:
    return Split({"x": rng.normal(size=(samples, 3)).astype(np.float32)})


def test_a_model_of_fixed_batch_agrees_with_its_normal_form(
    tmp_path: pathlib.Path, rng: np.random.Generator
) -> None:
    path, model = _saved(tmp_path, rng)
    check_normal_form(path, model, _split_of(rng, 9))


def test_a_normal_form_that_computes_something_else_is_refused(
    tmp_path: pathlib.Path, rng: np.random.Generator
) -> None:
    path, _ = _saved(tmp_path, rng)
    other = normalize(parse(TEXT, {"w": rng.normal(size=(3, 4)).astype(np.float32)}))
    with pytest.raises(ModelError, match="normal form of the network gives outputs that differ"):
        check_normal_form(path, other, _split_of(rng, 9))


def test_fewer_samples_than_the_fixed_batch_are_refused(
    tmp_path: pathlib.Path, rng: np.random.Generator
) -> None:
    path, model = _saved(tmp_path, rng)
    with pytest.raises(DataError, match=r"fixes a batch of 2, and the test split has 1 samples"):
        check_normal_form(path, model, _split_of(rng, 1))


def test_held_out_samples_are_none_of_those_learned_from(rng: np.random.Generator) -> None:
    split = _split_of(rng, 200)
    tuning, held_out = hold_out(split, seed=0)
    assert len(held_out) == 30
    assert len(tuning) == 170
    rows = {array.tobytes() for part in (tuning, held_out) for array in part.inputs["x"]}
    assert len(rows) == 200
    again, other = hold_out(split, seed=0)[1], hold_out(split, seed=1)[1]
    np.testing.assert_array_equal(again.inputs["x"], held_out.inputs["x"])
    assert not np.array_equal(other.inputs["x"], held_out.inputs["x"])


def _prepared(tmp_path: pathlib.Path, text: str, weights: dict[str, np.ndarray], **arrays: np.ndarray) -> str:
    """What is said when a run of this model is prepared."""
    ir.save(parse(text, weights), tmp_path / "m.onnx")
    if arrays:
        np.savez(tmp_path / "m.npz", **arrays)
    stream = io.StringIO()
    prepare(tmp_path / "m.onnx", QuantizeOptions(), Reporter(stream=stream))
    return stream.getvalue()


def test_what_cannot_be_imported_is_named_before_what_cannot_be_quantized(tmp_path: pathlib.Path) -> None:
    text = """net (float[n,3] x) => (float[n,4] y) {
        a = com.microsoft.Magic(x)
        b = com.microsoft.More(a)
        y = MatMul(b, w)
    }"""
    with pytest.raises(UnsupportedOpError, match=r"(?s)Magic.*More"):
        _prepared(tmp_path, text, {"w": np.ones((3, 4), np.float32)})


def test_a_network_without_layers_is_refused_with_a_next_step(tmp_path: pathlib.Path) -> None:
    text = "net (float[n,3] x) => (float[n,3] y) { y = Relu(x) }"
    with pytest.raises(
        ModelError, match=r"it has no convolution .* weights\. Give a network with Conv or Gemm"
    ):
        _prepared(tmp_path, text, {})


def test_outputs_without_a_gradient_are_refused_before_anything_is_trained(tmp_path: pathlib.Path) -> None:
    text = """net (float[n,3] x) => (int64[n,1] a) {
        y = MatMul(x, w)
        a = ArgMax <axis = 1> (y)
    }"""
    with pytest.raises(ModelError, match=r"No gradient reaches .* without what comes behind its logits"):
        _prepared(tmp_path, text, {"w": np.ones((3, 4), np.float32)})


_OPEN = """net (float[n,2,h,w] x) => (float[n,3] y) {
    c = Conv(x, k)
    l = LayerNormalization<axis=1>(c, scale)
    u = ConvTranspose<strides=[2,2]>(l, t)
    g = GlobalAveragePool(u)
    y = Flatten(g)
}"""


def test_what_stays_float_and_the_sizes_that_count_are_said(
    tmp_path: pathlib.Path, rng: np.random.Generator
) -> None:
    weights = {
        "k": rng.normal(size=(2, 2, 1, 1)),
        "t": rng.normal(size=(2, 3, 3, 3)),
        "scale": np.ones((2, 4, 4)),
    }
    said = _prepared(
        tmp_path, _OPEN, weights, x=rng.normal(size=(20, 2, 4, 4)).astype(np.float32)
    ).splitlines()
    assert said[0].startswith("no labels: the 3 outputs are taken for class logits")
    assert said[2].endswith("those of 'x' as it is in the data, 2x4x4")
    assert (
        "warning: 1 ConvTranspose layer with 93.1% of the MACs and 93.1% of the weights stay float: no "
        in said[3]
    )


def test_a_network_that_becomes_integer_as_a_whole_needs_no_words(
    tmp_path: pathlib.Path, rng: np.random.Generator
) -> None:
    text = "net (float[n,3] x) => (float[n,4] y) { y = MatMul(x, w) }"
    x = rng.normal(size=(20, 3)).astype(np.float32)
    label = np.arange(20) % 4
    arrays = {"x": x, "x_test": x, "label": label, "label_test": label}
    assert _prepared(tmp_path, text, {"w": rng.normal(size=(3, 4))}, **arrays) == ""


def test_a_run_goes_on_for_another_target_but_not_with_another_training(
    tmp_path: pathlib.Path, rng: np.random.Generator
) -> None:
    ir.save(
        parse("net (float[n,3] x) => (float[n,4] y) { y = MatMul(x, w) }", {"w": rng.normal(size=(3, 4))}),
        tmp_path / "m.onnx",
    )
    np.savez(tmp_path / "m.npz", x=rng.normal(size=(20, 3)).astype(np.float32))

    def prepared(**options: Any) -> Job:
        given = QuantizeOptions(out=str(tmp_path / "out"), **options)
        return prepare(tmp_path / "m.onnx", given, Reporter(silent=True))

    prepared(target="cuda").save("search", Checkpoint({}, {"epoch": 1}))

    job = prepared(resume=True, lower="fastest", vnni=True)

    assert job.checkpoint is not None
    with pytest.raises(CheckpointError, match="--lr changed"):
        prepared(resume=True, lr=0.5)
    with pytest.raises(CheckpointError, match="--method, --target-bits, --max-drop, --epochs changed"):
        prepared(resume=True, method="lsq")
