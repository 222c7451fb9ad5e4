from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from compare import run_onnx
from importing import BATCHES, imported

import mpqtool.importer.attention
from mpqtool.passes.errors import UnsupportedOpError

HEADS, QUERIES, KEYS, SIZE, PAST = 4, 3, 5, 8, 2
PAST_TYPE = f"float[N, {HEADS}, {PAST}, {SIZE}]"
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
    shapes = _heads_first() | {"past_key": PAST_TYPE, "past_value": PAST_TYPE}
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


@pytest.mark.parametrize(
    ("attributes", "more"),
    [
        ("is_causal = 0", {}),
        ("is_causal = 1", {}),
        ("softmax_precision = 1", {}),
        ("is_causal = 1", {"mask": f"bool[{QUERIES}, {KEYS}]"}),
        ("is_causal = 0", {"mask": f"float[N, 1, {QUERIES}, {KEYS}]"}),
        ("is_causal = 1", {"past_key": PAST_TYPE, "past_value": PAST_TYPE}),
    ],
)
def test_it_is_one_kernel_of_torch(
    attributes: str, more: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not the form in steps, in which the scores are all in memory."""
    monkeypatch.delattr(mpqtool.importer.attention, "_attend")
    model = _model(attributes, _heads_first() | more, opset=23)
    _assert_matches(model, reference=True)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_the_kernel_gives_what_the_steps_give(kind: str) -> None:
    """Values and gradients, of the mask too; a cap this high changes nothing but that it takes steps."""
    shapes = _heads_first(kv_heads=2) | {"mask": f"{kind}[N, {HEADS}, {QUERIES}, {KEYS}]"}
    made = []
    for attributes in ("is_causal = 1", "is_causal = 1, softcap = 1e6"):
        model = _model(attributes, shapes, opset=23)
        inputs = [torch.from_numpy(array) for array in _feeds(model, 3).values()]
        inputs[3].flatten(2)[0, 0] = 0 if kind == "bool" else -torch.inf
        learned = [x.double().requires_grad_() for x in inputs[: 3 if kind == "bool" else 4]]
        (y,) = imported(model)(*learned, *inputs[len(learned) :])
        made.append((y, *torch.autograd.grad(y.square().sum(), learned)))
    for fused, stepped in zip(*made, strict=True):
        torch.testing.assert_close(fused, stepped, rtol=1e-6, atol=1e-9)  # 1e6 * tanh(x / 1e6)
    assert made[0][0][0, 0].abs().max() == 0
    assert made[0][0][1, 0, 1:].abs().max() > 0


@pytest.mark.parametrize(
    ("attributes", "more", "reason"),
    [
        ("softmax_precision = 7", {}, "softmax_precision=7 is no floating point type. Set it to 1"),
        ("is_causal = 0", {"past_key": PAST_TYPE}, "past_key is given without past_value. Give both"),
        ("is_causal = 0", {"past_value": PAST_TYPE}, "past_value is given without past_key. Give both"),
    ],
)
def test_refusals(attributes: str, more: dict[str, str], reason: str) -> None:
    with pytest.raises(UnsupportedOpError, match=reason):
        imported(_model(attributes, _heads_first() | more, opset=23))
