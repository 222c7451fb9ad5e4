"""Prices are those that ``inspect`` finds in the files."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
from graphs import calibrated, residual_cnn
from onnx_text import parse

from mpqtool.methods.budgets import Widths
from mpqtool.passes import pipelines
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.prices import make_prices
from mpqtool.runtime.inspect import inspect


def test_prices_are_those_of_the_integer_file(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    model = residual_cnn(rng)
    feeds = {"x": rng.normal(size=(8, 2, 8, 8)).astype(np.float32)}
    plan = calibrated(model, feeds, weight_bits=3, activation_bits=5)
    mixed = [
        w.model_copy(update={"bits": tuple(1 + i % 3 for i in range(len(w.bits)))}) for w in plan.weights
    ]
    plan = plan.replaced(weights=mixed)
    widths: Widths = {entry.name: entry.bits for entry in plan.weights}
    widths = widths | {entry.name: (entry.bits,) for entry in plan.activations}
    ir.save(pipelines.lower(pipelines.quantize(model, plan)), tmp_path / "int.onnx")
    found = inspect(tmp_path / "int.onnx")

    prices = make_prices(model, plan, {})(widths)

    assert prices == {"size": found["bytes"]["weights_owed"], "bitops": found["cost"]["bitops"]}


def test_sizes_that_are_open_are_given(rng: np.random.Generator) -> None:
    text = """net (float[N, 2, h, w] x) => (float[N, 4] y) {
        a = Conv (x, w0)
        b = GlobalAveragePool (a)
        y = Flatten (b)
    }"""
    model = pipelines.normalize(parse(text, {"w0": rng.normal(size=(4, 2, 1, 1))}))
    plan = place(model, weight_bits=4, activation_bits=8, grid=Grid.ODD)
    assert make_prices(model, plan, {})({})["bitops"] == np.inf
    sized = make_prices(model, plan, {"x": (7, 2, 5, 3)})({"w0": (2,), "x": (8,)})
    assert sized == {"size": 2, "bitops": pytest.approx(8 * 15 * 2 * 8)}
