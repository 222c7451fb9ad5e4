from __future__ import annotations

import numpy as np
import pytest
from graphs import calibrated, residual_cnn

from mpqtool.passes.lower.canonical import canonical_passes
from mpqtool.passes.pipelines import quantize


@pytest.mark.parametrize("bits", [4, 8])
def test_a_file_of_ours_is_left_as_it_is(bits: int, rng: np.random.Generator) -> None:
    model = residual_cnn(rng)
    feeds = {"x": rng.normal(size=(4, 2, 8, 8)).astype(np.float32)}
    qdq = quantize(model, calibrated(model, feeds, weight_bits=bits, activation_bits=bits))

    changed = [type(pass_).__name__ for pass_ in canonical_passes() if pass_(qdq).modified]

    assert changed == []
