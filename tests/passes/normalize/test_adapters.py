"""Operators whose meaning or signature changed between opset 7 and 21, at the opsets before the change."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from numpy.typing import NDArray
from onnx_ir.passes.common import ShapeInferencePass
from onnx_text import ops, parse

from mpqtool.passes.errors import ModelError
from mpqtool.passes.load import NEWEST_OPSET, OLDEST_OPSET
from mpqtool.passes.normalize.adapters import ADAPTERS
from mpqtool.passes.normalize.opset import OPSET, ConvertOpsetPass
from mpqtool.passes.pipelines import normalize
from mpqtool.passes.values import all_values, array


def _model(body: str, weights: dict[str, Any], opset: int) -> ir.Model:
    """``x`` to ``y``, whose shape is not told; weights become float32, but arrays stay as they are."""
    text = f"net (float[2,4,5,2] x) => (float[] y) {{ {body} }}"
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> {text}')
    for name, numbers in weights.items():
        array = numbers if isinstance(numbers, np.ndarray) else np.float32(numbers)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return ir.from_proto(proto)


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_SCALES = {"s": [1, 1, 2, 1.5]}
_ROI = {"s": [1, 1, 2, 1.5], "r": np.zeros(0, np.float32), "none": np.zeros(0, np.float32)}


@pytest.mark.parametrize(
    ("opset", "body", "weights"),
    [
        *(
            pytest.param(
                opset, f"y = Reduce{name}<axes=[{axes}], keepdims={keep}>(x)", {}, id=f"{name}-{opset}-{axes}"
            )
            for name in _REDUCTIONS
            for opset, axes, keep in ((7, "2,3", 1), (11, "-1", 0))
        ),
        (7, "y = ReduceSum(x)", {}),
        (12, "y = ReduceMax<axes=[1]>(x)", {}),
        *(
            pytest.param(opset, f"y = {name}{axis}(x)", {}, id=f"{name}-{opset}{axis}")
            for name in ("Softmax", "LogSoftmax", "Hardmax")
            for opset, axis in (
                (7, ""),
                (7, "<axis=2>"),
                (7, "<axis=3>"),
                (11, "<axis=-2>"),
                (12, "<axis=-1>"),
            )
        ),
        (7, "y = Unsqueeze<axes=[0,3]>(x)", {}),
        (11, "y = Unsqueeze<axes=[-1]>(x)", {}),
        (7, "u = Unsqueeze<axes=[1]>(x) y = Squeeze<axes=[1]>(u)", {}),
        (11, "u = Unsqueeze<axes=[1]>(x) y = Squeeze(u)", {}),
        (7, "a, y = Split<axis=1>(x)", {}),
        (11, "a, y = Split<axis=1, split=[1,3]>(x)", {}),
        (13, "a, y = Split<axis=1>(x, sizes)", {"sizes": np.array([1, 3])}),
        (13, "a, y = Split<axis=1>(x)", {}),
        (7, "y = Slice<axes=[1,2], starts=[1,-3], ends=[3,9000]>(x)", {}),
        (9, "y = Slice<starts=[0,1], ends=[2,-1]>(x)", {}),
        (10, "y = Slice(x, a, b)", {"a": np.array([0, 1]), "b": np.array([2, 3])}),
        (7, "y = Pad<pads=[0,0,1,2,0,0,3,1], value=0.5>(x)", {}),
        (7, 'y = Pad<pads=[0,0,1,1,0,0,3,1], mode="reflect">(x)', {}),
        (11, "y = Pad(x, p)", {"p": np.array([0, 0, 1, 2, 0, 0, 3, 1])}),
        (7, "y = Clip<min=-0.5, max=0.25>(x)", {}),
        (7, "y = Clip<min=0.0>(x)", {}),
        (7, "y = Clip(x)", {}),
        (11, "y = Clip(x, , high)", {"high": np.float32(0.5)}),
        (7, "y, i = TopK<k=2, axis=2>(x)", {}),
        (10, "y, i = TopK<axis=2>(x, k)", {"k": np.array([2])}),
        (7, "y = Dropout<ratio=0.3>(x)", {}),
        (10, "y = Dropout(x)", {}),
        (7, "y = BatchNormalization(x, g, b, b, g)", {"g": [1, 2, 3, 4], "b": [0.5, 0, 1, -1]}),
        (9, "y = BatchNormalization<epsilon=0.1>(x, g, b, b, g)", {"g": [1, 2, 3, 4], "b": [0.5, 0, 1, -1]}),
        (18, "y = GroupNormalization<num_groups=2>(x, g, b)", {"g": [1, 2], "b": [0.5, -1]}),
        (7, 'y = Upsample<mode="nearest", scales=[1.0,1.0,2.0,1.5]>(x)', {}),
        (7, 'y = Upsample<mode="linear", scales=[1.0,1.0,2.0,2.0]>(x)', {}),
        (9, 'y = Upsample<mode="nearest">(x, s)', _SCALES),
        (10, 'y = Resize<mode="nearest">(x, s)', _SCALES),
        (10, 'y = Resize<mode="linear">(x, s)', _SCALES),
        (11, "y = Resize(x, r, s)", _ROI),
        (11, "y = Resize(x, r, none, size)", {**_ROI, "size": np.array([2, 4, 7, 9])}),
        (
            11,
            'y = Resize<nearest_mode="floor", coordinate_transformation_mode="tf_half_pixel_for_nn">'
            "(x, r, s)",
            _ROI,
        ),
        (13, "y = Resize(x, , s)", _SCALES),
        (9, "y = Scatter<axis=1>(x, i, u)", {"i": np.array([[[[0, 2]]]]), "u": [[[[7, 8]]]]}),
        (9, "i = Cast<to=7>(x) y = OneHot(i, d, v)", {"d": np.array(3), "v": [0.5, 2]}),
        (11, "i = Cast<to=7>(x) y = OneHot(i, d, v)", {"d": np.array(3), "v": [0.5, 2]}),
        (
            16,
            'y = GridSample<mode="bilinear">(x, grid)',
            {"grid": np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 2, 2)},
        ),
        (
            16,
            'y = GridSample<mode="bicubic">(x, grid)',
            {"grid": np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 2, 2)},
        ),
        (
            10,
            "y = RoiAlign<output_height=2, output_width=2, sampling_ratio=2>(x, boxes, i)",
            {"boxes": [[0, 0, 3, 3]], "i": np.array([1])},
        ),
        (17, "t = DFT<axis=2>(x) y = ReduceSum(t)", {}),
        (7, 'y = AveragePool<kernel_shape=[2,2], auto_pad="SAME_UPPER">(x)', {}),
        (10, "y = AveragePool<kernel_shape=[2,2], ceil_mode=1, strides=[2,2]>(x)", {}),
        (8, "y, i = MaxPool<kernel_shape=[2,2]>(x)", {}),
        (7, "y = LpPool<kernel_shape=[2,2]>(x)", {}),
        (7, "f = Flatten(x) y = Gemm(f, w, b)", {"w": [[1, 2]] * 40, "b": [1.0, 2.0]}),
        (9, "y = PRelu(x, s)", {"s": [[[0.5]], [[1]], [[2]], [[3]]]}),
        (7, "y = Pow(x, two)", {"two": np.float32(2)}),
        (7, "c = Greater(x, zero) y = Cast<to=1>(c)", {"zero": np.float32(0)}),
        (12, "y = Reshape(x, to)", {"to": np.array([0, -1])}),
        (22, "y = AveragePool<kernel_shape=[2,2]>(x)", {}),
        (23, "i = Cast<to=6>(x) y = Cast<to=1>(i)", {}),
        (23, "q = QuantizeLinear(x, s) y = DequantizeLinear<output_dtype=1>(q, s)", {"s": np.float32(0.1)}),
        (25, "q = QuantizeLinear<precision=1>(x, s) y = DequantizeLinear(q, s)", {"s": np.float32(0.1)}),
    ],
)
@pytest.mark.parametrize("typed", [True, False], ids=["typed", "untyped"])
def test_means_the_same(
    opset: int, body: str, weights: dict[str, Any], typed: bool, rng: np.random.Generator
) -> None:
    # Distinct multiples of 1/8, so that no order of sums matters and no two numbers tie.
    numbers = rng.permutation(2 * 4 * 5 * 2) / np.float32(8) - np.float32(4)
    feeds: dict[str, NDArray[Any]] = {"x": numbers.reshape(2, 4, 5, 2).astype(np.float32)}
    model, result = _model(body, weights, opset), _model(body, weights, opset)
    before = run_onnx(model, feeds)

    if typed:
        ShapeInferencePass()(result)
    assert ConvertOpsetPass()(result).modified

    assert result.graph.opset_imports[""] == OPSET
    assert {v.name for v in all_values(model.graph)} <= {v.name for v in all_values(result.graph)}
    assert set(result.graph.initializers) == set(weights)
    for node in result.graph:
        onnx.defs.get_schema(node.op_type, OPSET)
    # One unit in the last place: ONNX Runtime has other kernels for other versions of some operators.
    assert_equivalent(before, run_onnx(result, feeds), rtol=3e-7, atol=3e-7)
    assert not ConvertOpsetPass()(result).modified


@pytest.mark.parametrize(
    ("opset", "body", "kept"),
    [
        # ONNX Runtime does not run these as they are.
        pytest.param(
            11, "i = Cast<to=7>(x) y = Scatter<axis=1>(x, i, x)", ["Cast", "ScatterElements"], id="Scatter"
        ),
        pytest.param(24, 'y = Cast<to=6, round_mode="down">(x)', ["Cast"], id="Cast"),
        pytest.param(7, "y = Softmax<axis=1>(x)", ["Flatten", "Softmax", "Shape", "Reshape"], id="Softmax"),
    ],
)
def test_is_said_so(opset: int, body: str, kept: list[str]) -> None:
    model = ConvertOpsetPass()(_model(body, {}, opset)).model
    assert ops(model) == kept
    assert all("round_mode" not in node.attributes for node in model.graph)


@pytest.mark.parametrize("channels", [4, "c"])
@pytest.mark.parametrize(
    "body",
    [
        "y = GroupNormalization<num_groups=2, epsilon=0.1>(x, g, b)",
        "y = GroupNormalization<num_groups=2>(x, g, g)",
        "t = GroupNormalization<num_groups=2>(x, g, b) y = GroupNormalization<num_groups=2>(t, g, b)",
    ],
    ids=["one", "one-weight", "two"],
)
def test_group_norm_keeps_its_weights_as_they_are(
    body: str, channels: int | str, rng: np.random.Generator
) -> None:
    weights = {"g": [1.0, 2.0], "b": [0.5, -1.0]} if "b)" in body else {"g": [1.0, 2.0]}
    model = _model(body, weights, 18)
    model.graph.inputs[0].shape = ir.Shape(["n", channels, 5, 2])
    feeds = {"x": rng.normal(size=(3, 4, 5, 2)).astype(np.float32)}
    before = run_onnx(model, feeds)
    ConvertOpsetPass()(model)
    assert {name: array(model.graph.initializers[name]).tolist() for name in weights} == weights
    assert set(model.graph.initializers) == set(weights)
    assert_equivalent(before, run_onnx(model, feeds), rtol=1e-5, atol=1e-6)  # sums in another order


@pytest.mark.parametrize(
    "scales", [[1, 1, 0.6, 0.6], [1, 1, 0.4, 1], [1, 1, 1, 0.5]], ids=["both", "first", "second"]
)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_10_shrinks_as_onnx_runtime_does(scales: list[float], mode: str) -> None:
    feeds = {"x": np.arange(80, dtype=np.float32).reshape(2, 4, 5, 2)}
    model = _model(f'y = Resize<mode="{mode}">(x, s)', {"s": scales}, 10)
    before = run_onnx(model, feeds)
    ConvertOpsetPass()(model)
    assert_equivalent(before, run_onnx(model, feeds), rtol=1e-6, atol=0)  # weights of the corners


@pytest.mark.parametrize("body", ["y = Softmax<axis=1>(x)", "y = Softmax<axis=3>(x)"])
def test_softmax_of_nothing(body: str) -> None:
    text = f"net (float[n,3,0,2] x) => (float[n,3,0,2] y) {{ {body} }}"
    feeds = {"x": np.zeros((2, 3, 0, 2), np.float32)}
    before = run_onnx(parse(text, opset=11), feeds)
    model = ConvertOpsetPass()(parse(text, opset=11)).model
    assert_equivalent(before, run_onnx(model, feeds), rtol=0, atol=0)
    assert_equivalent(before, run_onnx(normalize(parse(text, opset=11)), feeds), rtol=0, atol=0)


def test_sequences_of_a_later_version_are_no_fault() -> None:
    model = _model("s = SplitToSequence<axis=1>(x) y = ConcatFromSequence<axis=1>(s)", {}, 24)
    ConvertOpsetPass()(ShapeInferencePass()(model).model)
    assert ops(model) == ["SplitToSequence", "ConcatFromSequence"]


_HELD = {"s": np.float32(1), "r": np.zeros(0, np.float32), "mixed": [1, 1, 2, 0.5]}


@pytest.mark.parametrize(
    ("opset", "body", "message"),
    [
        pytest.param(
            7, "d, m = Dropout(x) y = Add(d, m)", "Dropout '' .version 7.*: its mask 'm' is used", id="mask-7"
        ),
        pytest.param(
            11, "d, m = Dropout(x) y = Not(m)", "Dropout '' .version 10.*: its mask 'm' is used", id="mask"
        ),
        pytest.param(7, "y = BatchNormalization<spatial=0>(x, s, s, s, s)", "has spatial=0", id="spatial"),
        pytest.param(
            9,
            "t, y, v, a, b = BatchNormalization(x, s, s, s, s)",
            "computes statistics: .* 'y'",
            id="statistics",
        ),
        pytest.param(
            11,
            'y = Resize<mode="linear", coordinate_transformation_mode="tf_half_pixel_for_nn">(x, r, s)',
            "coordinate_transformation_mode='tf_half_pixel_for_nn'",
            id="tf_half_pixel",
        ),
        pytest.param(
            11,
            'y = Resize<mode="cubic", nearest_mode="floor", '
            'coordinate_transformation_mode="tf_half_pixel_for_nn">(x, r, s)',
            "beside mode='cubic' and nearest_mode='floor'; 'nearest' and 'floor' are allowed",
            id="tf_half_pixel-cubic",
        ),
        pytest.param(
            10,
            'y = Resize<mode="nearest">(x, mixed)',
            r"its scales are \[1.0, 1.0, 2.0, 0.5\]; .* all at least 1 or all at most 1",
            id="grows-and-shrinks",
        ),
        pytest.param(
            10,
            "c = Abs(mixed) y = Resize(x, c)",
            "its scales are computed; those of mode='nearest' must be constant",
            id="scales-computed",
        ),
        pytest.param(
            8,
            "y = Scan<num_scan_inputs=1, body = b (float[5,2] i) => (float[5,2] o) { o = Relu(i) }>(, x)",
            "Scan over a batch",
            id="scan",
        ),
        pytest.param(
            23,
            "q = QuantizeLinear<precision=10>(x, s) y = Cast<to=1>(q)",
            "precision=FLOAT16",
            id="precision",
        ),
        pytest.param(
            23,
            "q = QuantizeLinear(x, s) t = DequantizeLinear<output_dtype=10>(q, s) y = Cast<to=1>(t)",
            "output_dtype=FLOAT16",
            id="output_dtype",
        ),
    ],
)
def test_has_no_form(opset: int, body: str, message: str) -> None:
    with pytest.raises(ModelError, match=rf"from opset {opset} to 21: .*{message}") as caught:
        ConvertOpsetPass()(_model(body, _HELD, opset))
    assert "\n" not in str(caught.value)


def _fits(old: onnx.defs.OpSchema, new: onnx.defs.OpSchema) -> bool:
    """Whether every node of the one is, going by attributes and the numbers of inputs, one of the other."""
    return (
        all(
            name in new.attributes and attribute.default_value == new.attributes[name].default_value
            for name, attribute in old.attributes.items()
        )
        and not any(
            attribute.required for name, attribute in new.attributes.items() if name not in old.attributes
        )
        and new.min_input <= old.min_input
        and old.max_input <= new.max_input
        and old.max_output <= new.max_output
    )


def test_no_change_of_a_signature_is_missed() -> None:
    schemas = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == "" and not s.deprecated]
    missed = []
    for schema in schemas:
        replaced = [
            s.since_version
            for s in schemas
            if s.name == schema.name and s.since_version > schema.since_version
        ]
        if min(replaced, default=99) <= OLDEST_OPSET or schema.since_version > NEWEST_OPSET:
            continue
        if (schema.name, schema.since_version) in ADAPTERS:
            continue
        try:
            target = onnx.defs.get_schema(schema.name, OPSET)
        except onnx.defs.SchemaError:
            continue  # came later
        if not _fits(schema, target):
            missed.append((schema.name, schema.since_version))
    assert missed == []
