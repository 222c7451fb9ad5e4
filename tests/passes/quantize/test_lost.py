"""Operands that are too coarse for the sum they are part of."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import normal

from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.passes.quantize import lost_in_sums


@pytest.mark.parametrize(("scale", "lost"), [(4e6, ["m"]), (0.5, []), (12.0, [])])
def test_a_mask_of_attention_is_too_coarse(scale: float, lost: list[str], rng: np.random.Generator) -> None:
    text = """net (float[N, 4] x, float[N, 4] m) => (float[N, 4] y) {
        s = Gemm <transB = 1> (x, w)
        t = Add (s, m)
        y = Softmax (t)
    }"""
    model = normal(text, {"w": rng.normal(size=(4, 4))})
    plan = place(model, weight_bits=8, activation_bits=8, grid=Grid.FULL)
    scales = {"m": scale, "s": 0.1, "t": 0.05}
    entries = [
        entry.model_copy(update={"scale": scales.get(entry.name, 1.0), "zero_point": 128})
        for entry in plan.activations
    ]

    found = lost_in_sums(model, plan.replaced(activations=entries))

    assert list(found) == lost
    assert all("times as large as those of a sum it is in" in reason for reason in found.values())
