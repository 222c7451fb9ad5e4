from __future__ import annotations

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import parse

from mpqtool.crosscheck import check_normal_form
from mpqtool.data import Split
from mpqtool.errors import DataError, ModelError
from mpqtool.job import _split
from mpqtool.passes.pipelines import normalize

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
    tuning, held_out = _split(split, seed=0)
    assert len(held_out) == 30
    assert len(tuning) == 170
    rows = {array.tobytes() for part in (tuning, held_out) for array in part.inputs["x"]}
    assert len(rows) == 200
    again, other = _split(split, seed=0)[1], _split(split, seed=1)[1]
    np.testing.assert_array_equal(again.inputs["x"], held_out.inputs["x"])
    assert not np.array_equal(other.inputs["x"], held_out.inputs["x"])
