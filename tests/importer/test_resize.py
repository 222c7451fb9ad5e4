from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from compare import assert_equivalent, run_onnx
from importing import assert_imports, imported, parse

from mpqtool.importer.interpolation import Rule
from mpqtool.importer.resize import resize
from mpqtool.runtime.session import make_session

MODES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
SCALES = [(2, 2), (3, 2), (0.5, 0.5), (1.7, 0.6), (0.3, 1.25), (1, 1.4)]
SIZES = [(18, 16), (5, 3), (13, 7), (1, 1)]
# ONNX Runtime and torch find the places in float32: 1e-6 of up to 20 elements, times differences of up to 4.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def _check(attributes: str, **inputs: Any) -> None:
    """``inputs`` are roi, scales and sizes, without batch and channels where the attributes name axes."""
    opset = inputs.pop("opset", 19)
    arrays = {
        name: np.asarray(value, np.int64 if name == "sizes" else np.float32) for name, value in inputs.items()
    }
    names = ", ".join(name if name in arrays else "" for name in ("roi", "scales", "sizes")).rstrip(", ")
    assert_imports(
        f"y = Resize <{attributes}> (x, {names})",
        opset=opset,
        inputs={"x": (3, 9, 8)},
        initializers=arrays,
        **CLOSE,
    )


@pytest.mark.parametrize("nearest", NEAREST)
@pytest.mark.parametrize("coordinates", MODES)
def test_nearest(coordinates: str, nearest: str) -> None:
    attributes = f'coordinate_transformation_mode = "{coordinates}", nearest_mode = "{nearest}"'
    for scales in SCALES:
        _check(attributes, scales=(1, 1, *scales))
    for sizes in SIZES:
        _check(f"{attributes}, axes = [2, 3]", sizes=sizes)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("coordinates", [*MODES, "half_pixel_symmetric"])
def test_interpolation(coordinates: str, mode: str) -> None:
    attributes = f'mode = "{mode}", coordinate_transformation_mode = "{coordinates}"'
    for scales in SCALES:
        _check(attributes, scales=(1, 1, *scales))
    for sizes in SIZES:
        _check(f"{attributes}, axes = [-2, -1]", sizes=sizes)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("opset", [11, 13, 18, 19])
def test_versions(mode: str, opset: int) -> None:
    _check(f'mode = "{mode}"', opset=opset, roi=(), scales=(1, 1, 2, 1.5))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("scales", [(0.5, 0.5), (0.3, 0.7), (2, 1.5)])
def test_antialias_and_other_cubics(mode: str, scales: tuple[float, float]) -> None:
    attributes = f'mode = "{mode}", cubic_coeff_a = -0.5'
    _check(attributes, scales=(1, 1, *scales))
    _check(f"{attributes}, antialias = 1", scales=(1, 1, *scales))
    _check(f"{attributes}, antialias = 1, exclude_outside = 1", scales=(1, 1, *scales))
    if mode == "cubic":  # ONNX Runtime refuses the linear
        _check(f"{attributes}, exclude_outside = 1", scales=(1, 1, *scales))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("sizes", [(5, 6), (12, 1)])
def test_crop(mode: str, sizes: tuple[int, int]) -> None:
    attributes = f'mode = "{mode}", coordinate_transformation_mode = "tf_crop_and_resize", axes = [2, 3]'
    _check(attributes, roi=(0.2, 0.1, 0.8, 0.9), sizes=sizes)
    _check(f"{attributes}, extrapolation_value = 7.0", roi=(-0.2, 0.3, 0.8, 1.4), sizes=sizes)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("sizes", [(18, 12), (5, 7)])
def test_aspect_ratio(policy: str, mode: str, sizes: tuple[int, int]) -> None:
    _check(f'mode = "{mode}", keep_aspect_ratio_policy = "{policy}", axes = [3, 2]', sizes=sizes)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("shape", [(3, 7), (2, 3, 4, 6)])
def test_rows_and_volumes(mode: str, shape: tuple[int, ...]) -> None:
    for factor in (2.0, 1.5):
        assert_imports(
            f'y = Resize <mode = "{mode}"> (x, , scales)',
            opset=19,
            inputs={"x": shape},
            initializers={"scales": np.array([1, 1] + [factor] * (len(shape) - 1), np.float32)},
            **CLOSE,
        )


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(2, 2), (3, 2), (1.7, 1.2), (0.5, 0.5), (0.7, 0.6)])
def test_before_there_were_attributes(mode: str, scales: tuple[float, float]) -> None:
    arrays = {"s": np.array((1, 1, *scales), np.float32)}
    options: dict[str, Any] = {"inputs": {"x": (3, 9, 8)}, **CLOSE}
    assert_imports(f'y = Resize <mode = "{mode}"> (x, s)', opset=10, initializers=arrays, **options)
    if min(scales) < 1:
        return  # Upsample does not shrink
    assert_imports(f'y = Upsample <mode = "{mode}"> (x, s)', opset=9, initializers=arrays, **options)
    numbers = [1.0, 1.0, *map(float, scales)]
    assert_imports(f'y = Upsample <mode = "{mode}", scales = {numbers}> (x)', opset=7, **options)


@pytest.mark.parametrize(
    ("nodes", "opset"),
    [
        ("t = Shape (x)  u = Mul (t, two)  y = Resize (x, none, none, u)", 11),
        ("t = Shape (x)  u = Mul (t, two)  y = Resize (x, , , u)", 13),
        ('t = Shape (x)  u = Mul (t, two)  y = Resize <mode = "linear"> (x, , , u)', 19),
        ("t = Cast <to = 1> (two)  y = Resize (x, , t)", 13),
        ("t = Cast <to = 1> (two)  y = Resize (x, t)", 10),
        ("t = Cast <to = 1> (two)  y = Upsample (x, t)", 9),
    ],
)
def test_sizes_and_scales_may_be_computed(nodes: str, opset: int, rng: np.random.Generator) -> None:
    proto = parse(
        nodes,
        opset=opset,
        inputs={"x": (3, "H", "W")},
        initializers={"two": np.array([1, 1, 2, 2]), "none": np.zeros(0, np.float32)},
    )
    module = imported(proto)
    for size in ((5, 4), (6, 7)):
        x = rng.normal(size=(2, 3, *size)).astype(np.float32)
        (y,) = module(torch.from_numpy(x))
        assert y.shape[2:] == (2 * size[0], 2 * size[1])
        assert_equivalent(run_onnx(proto, {"x": x}), {"y": y.numpy()}, **CLOSE)


@pytest.mark.parametrize("factor", [2, 3, 5, 7, 11])
def test_torchs_nearest_is_exact_for_whole_factors(factor: int) -> None:
    rule = Rule("nearest", "asymmetric", "floor")
    x = torch.arange(997.0).view(1, 1, -1)
    y = resize(x, (1.0, 1.0, float(factor)), None, rule)
    torch.testing.assert_close(y, x.repeat_interleave(factor, 2), rtol=0, atol=0)


def _session(attributes: str, dtype: str = "float") -> Any:
    """Resize of ``x`` of rank 4 in ONNX Runtime, of floats by sizes and of integers by scales ``s``."""
    steers, names = ("int64[4] s", "x, , , s") if dtype == "float" else ("float[4] s", "x, , s")
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 19]> '
        f"net ({dtype}[A, B, C, D] x, {steers}) => ({dtype}[] y) "
        f"{{ y = Resize <{attributes}> ({names}) }}"
    )
    return make_session(proto.SerializeToString(), level="disabled", threads=1)


@pytest.mark.parametrize("nearest", NEAREST)
@pytest.mark.parametrize("coordinates", [*MODES, "half_pixel_symmetric", "tf_half_pixel_for_nn"])
def test_the_nearest_is_onnx_runtimes_at_every_size(coordinates: str, nearest: str) -> None:
    attributes = f'coordinate_transformation_mode = "{coordinates}", nearest_mode = "{nearest}"'
    session = _session(attributes)
    rule = Rule("nearest", coordinates, nearest)
    for first, second in itertools.combinations_with_replacement(range(1, 25), 2):
        x = np.arange(first * second, dtype=np.float32).reshape(1, 1, first, second)
        sizes = (1, 1, second, first)  # one axis grows and the other shrinks
        (expected,) = session.run(None, {"x": x, "s": np.array(sizes)})
        y = resize(torch.from_numpy(x), None, sizes, rule).numpy()
        np.testing.assert_array_equal(y, expected, err_msg=f"{first} and {second}")


@pytest.mark.parametrize("scales", [(2.0, 2.0), (1.7, 0.6), (0.5, 0.4), (1.0, 3.0)])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_whole_numbers_lose_their_fractions(
    dtype: str, scales: tuple[float, float], rng: np.random.Generator
) -> None:
    x = rng.integers(0, 128, (1, 3, 20, 20)).astype(dtype) - np.array(50, dtype)  # of uint8, it wraps around
    (expected,) = _session('mode = "linear"', dtype).run(None, {"x": x, "s": np.float32((1, 1, *scales))})
    y = resize(torch.from_numpy(x), (1.0, 1.0, *scales), None, Rule("linear")).numpy()
    assert y.dtype == expected.dtype
    assert np.abs(y.astype(int) - expected).max() <= 1
    assert (y != expected).mean() < 0.003  # where one of both is a rounding below a whole number


@pytest.mark.parametrize("scales", [(2.0, 2.0), (1.7, 0.6), (0.5, 0.4), (1.0, 3.0)])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_antialiased_whole_numbers_are_rounded_and_clipped(
    dtype: str, mode: str, scales: tuple[float, float], rng: np.random.Generator
) -> None:
    x = rng.integers(0, 256, (1, 3, 20, 20)).astype(dtype)
    session = _session(f'mode = "{mode}", antialias = 1', dtype)
    (expected,) = session.run(None, {"x": x, "s": np.float32((1, 1, *scales))})
    y = resize(torch.from_numpy(x), (1.0, 1.0, *scales), None, Rule(mode, antialias=True)).numpy()
    assert np.abs(y.astype(int) - expected).max() <= 1
    assert (y != expected).mean() < 0.05  # halves; not rounded it would be half of all


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_a_tensor_that_keeps_its_size_stays_as_it_is(mode: str) -> None:
    _check(f'mode = "{mode}"', scales=(1, 1, 1.1, 1.1))


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint16, torch.int64, torch.float16, torch.bfloat16, torch.complex64]
)
def test_types(dtype: torch.dtype) -> None:
    x = torch.tensor([[[0, 1, 1]]]).to(dtype)
    y = resize(x, (1.0, 1.0, 5 / 3), None, Rule("nearest"))
    assert y.dtype == dtype
    assert torch.equal(y, torch.tensor([[[0, 0, 1, 1, 1]]]).to(dtype))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("scales", [(1.0, 1.0, 2.0, 2.0), (1.0, 1.0, 1.5, 0.7)])
def test_gradients(mode: str, scales: tuple[float, ...], rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(1, 2, 3, 4))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: resize(x, scales, None, Rule(mode)), x)
