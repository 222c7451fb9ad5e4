from __future__ import annotations

import numpy as np
import pytest
import torch
from importing import assert_imports, imported, parse

from mpqtool.importer.signal import dft, mel_weight_matrix, stft


@pytest.mark.parametrize(
    ("attributes", "parts"),
    [("", 1), ("", 2), ("inverse = 1", 1), ("inverse = 1", 2), ("onesided = 1", 1)],
)
@pytest.mark.parametrize("length", [12, 8, 16])
@pytest.mark.parametrize("opset", [17, 20])
def test_dft(opset: int, attributes: str, length: int, parts: int) -> None:
    arrays = {"n": np.array(length, np.int64)}
    if opset == 17:
        nodes = f"y = DFT <axis = 1{attributes and ', ' + attributes}> (x, n)"
    else:
        arrays["axis"] = np.array(1, np.int64)
        nodes = f"y = DFT {attributes and f'<{attributes}>'} (x, n, axis)"
    assert_imports(nodes, opset=opset, inputs={"x": (12, parts)}, initializers=arrays, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axis", [1, 2, -2, -3])
def test_axis_counts_the_parts(axis: int) -> None:
    x = torch.randn(2, 3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.fft.fft(torch.view_as_complex(x), dim={1: 1, 2: 2, -2: 2, -3: 1}[axis])
    torch.testing.assert_close(
        dft(x, None, axis, False, False), torch.view_as_real(expected), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("n", [8, 9])
def test_a_onesided_spectrum_comes_back_as_the_signal(n: int) -> None:
    x = torch.randn(2, n, 1, generator=torch.Generator().manual_seed(0))
    spectrum = dft(x, None, 1, False, True)
    assert spectrum.shape == (2, n // 2 + 1, 2)
    torch.testing.assert_close(dft(spectrum, n, 1, True, True), x, rtol=1e-5, atol=1e-5)


def test_a_length_may_be_computed() -> None:
    proto = parse(
        "s = Shape <start = 1, end = 2> (x) n = Squeeze(s) y = DFT <onesided = 1> (x, n)",
        opset=20,
        inputs={"x": (12, 1)},
    )
    x = torch.randn(2, 12, 1, generator=torch.Generator().manual_seed(0))
    (y,) = imported(proto)(x)
    expected = torch.view_as_real(torch.fft.rfft(x[..., 0]))
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("onesided", [0, 1])
def test_stft_with_a_window(onesided: int, rng: np.random.Generator) -> None:
    assert_imports(
        f"y = STFT <onesided = {onesided}> (x, step, window)",
        opset=17,
        inputs={"x": (40, 1)},
        initializers={
            "step": np.array(5, np.int64),
            "window": rng.uniform(0.1, 1, 12).astype(np.float32),
        },
        rtol=1e-4,
        atol=1e-4,
    )


def test_stft_with_a_frame_length() -> None:
    assert_imports(
        "y = STFT(x, step, , length)",
        opset=17,
        inputs={"x": (40, 1)},
        initializers={"step": np.array(5, np.int64), "length": np.array(16, np.int64)},
        rtol=1e-4,
        atol=1e-4,
    )


def test_mel_weights() -> None:
    numbers = {"bins": 8, "length": 64, "rate": 16000}
    arrays = {name: np.array(number, np.int64) for name, number in numbers.items()}
    arrays |= {"low": np.array(20, np.float32), "high": np.array(7600, np.float32)}  # type: ignore[dict-item]
    module = assert_imports(
        "m = MelWeightMatrix(bins, length, rate, low, high) y = MatMul(x, m)",
        opset=17,
        inputs={"x": (33,)},
        initializers=arrays,
        rtol=1e-5,
        atol=1e-5,
    )
    assert module.get_buffer("m").shape == (33, 8)  # a constant


def test_mel_weights_of_lists_of_one() -> None:
    numbers = (8, 64, 16000, 20.0, 7600.0)
    names = ("a", "b", "c", "d", "e")
    arrays = {
        name: np.array([number], np.float32 if isinstance(number, float) else np.int64)
        for name, number in zip(names, numbers, strict=True)
    }
    proto = parse(
        "m = MelWeightMatrix(a, b, c, d, e) y = MatMul(x, m)",
        opset=17,
        inputs={"x": (33,)},
        initializers=arrays,
    )
    x = torch.ones(1, 33)
    expected = x @ mel_weight_matrix(*numbers, torch.float32)
    torch.testing.assert_close(imported(proto)(x)[0], expected, rtol=0, atol=0)


def test_mel_weights_of_computed_numbers() -> None:
    numbers = (8, 64, 16000, 20.0, 7600.0)
    expected = mel_weight_matrix(*numbers, torch.float32)
    made = mel_weight_matrix(*map(torch.tensor, numbers), torch.float32)
    torch.testing.assert_close(made, expected, rtol=0, atol=0)
    assert expected.sum() > 0


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    real = torch.randn(2, 9, 1, dtype=torch.float64, generator=generator, requires_grad=True)
    window = torch.rand(4, dtype=torch.float64, generator=generator, requires_grad=True)
    check = torch.autograd.gradcheck
    assert check(lambda x: dft(x, 7, 1, False, False), (x,))
    assert check(lambda x: dft(x, None, 1, True, False), (x,))
    assert check(lambda x: dft(x, None, 1, True, True), (x,))
    assert check(lambda x: dft(x, 12, 1, False, True), (real,))
    assert check(lambda x, w: stft(x, 2, w, None, True), (real, window))
