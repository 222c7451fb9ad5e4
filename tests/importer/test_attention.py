from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from compare import run_onnx
from importing import BATCHES, imported

from mpqtool.passes.errors import UnsupportedOpError

HEADS, QUERIES, KEYS, SIZE, PAST = 4, 3, 5, 8, 2
CLOSE = {"rtol": 1e-4, "atol": 2e-6}  # float32, sums of eight products, and an exponential


def _model(attributes: str, shapes: dict[str, str], *, opset: int, outputs: int = 1) -> onnx.ModelProto:
    """One node; ``shapes`` are the types of its inputs, in the order of the schema."""
    slots = ["q", "k", "v", "mask", "past_key", "past_value", "valid"]
    used = [name if name in shapes else "" for name in slots]
    outs = ["y", "present_key", "present_value", "scores"][:outputs]
    return onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": {opset}]> '
        f"net ({', '.join(f'{kind} {name}' for name, kind in shapes.items())}) "
        f"=> ({', '.join(f'float[] {name}' for name in outs)}) "
        f"{{ {', '.join(outs)} = Attention <{attributes}> ({', '.join(used).rstrip(', ')}) }}"
    )


def _heads_first(kv_heads: int = HEADS, size: int = SIZE) -> dict[str, str]:
    return {
        "q": f"float[N, {HEADS}, {QUERIES}, {SIZE}]",
        "k": f"float[N, {kv_heads}, {KEYS}, {SIZE}]",
        "v": f"float[N, {kv_heads}, {KEYS}, {size}]",
    }


def _flat(kv_heads: int = HEADS) -> dict[str, str]:
    return {
        "q": f"float[N, {QUERIES}, {HEADS * SIZE}]",
        "k": f"float[N, {KEYS}, {kv_heads * SIZE}]",
        "v": f"float[N, {KEYS}, {kv_heads * SIZE}]",
    }


def _feeds(model: onnx.ModelProto, batch: int) -> dict[str, np.ndarray]:
    rng, feeds = np.random.default_rng(batch), {}
    for value in model.graph.input:
        shape = [dim.dim_value or batch for dim in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == onnx.TensorProto.BOOL:
            feeds[value.name] = rng.random(shape) < 0.6
        elif value.type.tensor_type.elem_type == onnx.TensorProto.INT64:
            feeds[value.name] = rng.integers(1, KEYS + 1, shape)
        else:
            feeds[value.name] = rng.normal(size=shape).astype(np.float32)
    return feeds


def _assert_matches(model: onnx.ModelProto, *, reference: bool = False) -> None:
    """As ONNX Runtime, or the standard's reference, at every batch size."""
    module = imported(model)
    for batch in BATCHES:
        feeds = _feeds(model, batch)
        if reference:
            expected = onnx.reference.ReferenceEvaluator(model).run(None, feeds)
        else:
            expected = list(run_onnx(model, feeds).values())
        made = module(*map(torch.from_numpy, feeds.values()))
        for tensor, array, output in zip(made, expected, model.graph.output, strict=True):
            np.testing.assert_allclose(tensor.numpy(), array, **CLOSE, err_msg=output.name)


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize("kv_heads", [HEADS, 2, 1])
@pytest.mark.parametrize("attributes", ["is_causal = 0", "is_causal = 1", "scale = 0.2", "softcap = 0.7"])
def test_heads_first(opset: int, kv_heads: int, attributes: str) -> None:
    _assert_matches(_model(attributes, _heads_first(kv_heads, size=6), opset=opset))


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize("kv_heads", [HEADS, 2])
def test_heads_in_the_last_axis(opset: int, kv_heads: int) -> None:
    attributes = f"q_num_heads = {HEADS}, kv_num_heads = {kv_heads}, is_causal = 1"
    _assert_matches(_model(attributes, _flat(kv_heads), opset=opset))


@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize("shape", [f"{QUERIES}, {KEYS}", f"1, {QUERIES}, {KEYS}", f"N, 1, {QUERIES}, {KEYS}"])
@pytest.mark.parametrize("is_causal", [0, 1])
def test_masks(kind: str, shape: str, is_causal: int) -> None:
    shapes = _heads_first() | {"mask": f"{kind}[{shape}]"}
    _assert_matches(_model(f"is_causal = {is_causal}", shapes, opset=23), reference=True)


@pytest.mark.parametrize("is_causal", [0, 1])
def test_past_and_present(is_causal: int) -> None:
    past = f"float[N, {HEADS}, {PAST}, {SIZE}]"
    shapes = _heads_first() | {"past_key": past, "past_value": past}
    _assert_matches(_model(f"is_causal = {is_causal}", shapes, opset=23, outputs=3), reference=True)


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_the_scores(mode: int) -> None:
    shapes = _heads_first() | {"mask": f"float[{QUERIES}, {KEYS}]"}
    model = _model(f"qk_matmul_output_mode = {mode}", shapes, opset=23, outputs=4)
    _assert_matches(model, reference=True)


def test_the_raw_scores_have_no_cap() -> None:
    """As the operator's text says; the standard's reference gives the capped ones."""
    model = _model("softcap = 0.1, qk_matmul_output_mode = 0", _heads_first(), opset=23, outputs=4)
    feeds = _feeds(model, 3)
    *_, scores = imported(model)(*map(torch.from_numpy, feeds.values()))
    expected = feeds["q"] @ feeds["k"].transpose(0, 1, 3, 2) / np.sqrt(SIZE)
    np.testing.assert_allclose(scores.numpy(), expected, **CLOSE)


@pytest.mark.parametrize("is_causal", [0, 1])
@pytest.mark.parametrize("mask", [{}, {"mask": f"bool[{QUERIES}, {KEYS}]"}])
def test_padding_after_the_keys(is_causal: int, mask: dict[str, str]) -> None:
    shapes = _heads_first() | mask | {"valid": "int64[N]"}
    _assert_matches(_model(f"is_causal = {is_causal}", shapes, opset=24), reference=True)


@pytest.mark.parametrize(
    "attributes", ["left_window_size = 1", "right_window_size = 0, left_window_size = 2"]
)
def test_windows(attributes: str) -> None:
    _assert_matches(_model(attributes, _heads_first(), opset=25), reference=True)


def test_a_query_that_sees_nothing_gives_zeros_and_finite_gradients() -> None:
    module = imported(
        _model("is_causal = 0", _heads_first() | {"mask": f"bool[{QUERIES}, {KEYS}]"}, opset=23)
    )
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, HEADS, n, SIZE, generator=generator, requires_grad=True) for n in (QUERIES, KEYS, KEYS)
    )
    mask = torch.ones(QUERIES, KEYS, dtype=torch.bool)
    mask[1] = False
    (y,) = module(q, k, v, mask)
    assert torch.equal(y[:, :, 1], torch.zeros(2, HEADS, SIZE))
    assert y[:, :, 0].abs().min() > 0
    y.square().sum().backward()
    for x in (q, k, v):
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert x.grad.abs().max() > 0


@pytest.mark.parametrize("attributes", ["is_causal = 1, softcap = 0.7", "is_causal = 0"])
def test_gradients(attributes: str) -> None:
    module = imported(_model(attributes, _heads_first(kv_heads=2), opset=23))
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(1, heads, n, 2, dtype=torch.float64, generator=generator).requires_grad_()
        for heads, n in ((HEADS, QUERIES), (2, KEYS), (2, KEYS))
    ]
    assert torch.autograd.gradcheck(module, inputs)


def test_plain_attention_is_one_call_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *args, **kwargs: calls.append(args) or fused(*args, **kwargs),
    )
    _assert_matches(_model("is_causal = 0", _heads_first(), opset=23))
    assert len(calls) == len(BATCHES)


@pytest.mark.parametrize(
    ("attributes", "more", "reason"),
    [
        ("softmax_precision = 7", {}, "softmax_precision=7 is no floating point type"),
        ("is_causal = 0", {"past_key": f"float[N, {HEADS}, 2, {SIZE}]"}, "belong together"),
    ],
)
def test_refusals(attributes: str, more: dict[str, str], reason: str) -> None:
    with pytest.raises(UnsupportedOpError, match=reason):
        imported(_model(attributes, _heads_first() | more, opset=23))


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("rotated", [0, 4])
@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_rotary_embedding(interleaved: int, rotated: int, positions: bool, flat: bool) -> None:
    half = (rotated or SIZE) // 2
    x = f"float[N, {KEYS}, {HEADS * SIZE}]" if flat else f"float[N, {HEADS}, {KEYS}, {SIZE}]"
    table = f"float[9, {half}]" if positions else f"float[N, {KEYS}, {half}]"
    attributes = f"interleaved = {interleaved}, rotary_embedding_dim = {rotated}, num_heads = {HEADS}"
    places = (f", int64[N, {KEYS}] places", ", places") if positions else ("", "")
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 23]> net ({x} x, {table} cos, {table} sin{places[0]}) => '
        f"(float[] y) {{ y = RotaryEmbedding <{attributes}> (x, cos, sin{places[1]}) }}"
    )
    _assert_matches(model)


def test_the_gradient_of_a_rotation_is_the_rotation_back() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 23]> '
        "net (float[1, 1, 2, 4] x, float[1, 2, 2] c, float[1, 2, 2] s) => (float[] y) "
        "{ y = RotaryEmbedding (x, c, s) }"
    )
    angle = torch.rand(1, 2, 2, generator=torch.Generator().manual_seed(0))
    x = torch.rand(1, 1, 2, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (y,) = imported(model)(x, angle.cos(), angle.sin())
    (y.square().sum() / 2).backward()  # the gradient at y is y
    torch.testing.assert_close(x.grad, x.detach(), rtol=1e-5, atol=1e-6)
