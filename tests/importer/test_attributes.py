from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from importing import imported, parse

from mpqtool.importer.attributes import one_of, single
from mpqtool.passes.errors import UnsupportedOpError

CONV = "one = ConstantOfShape <value = float[1] {1}> (s)"
QUANTIZED = (
    "q = QuantizeLinear (x, h, z)  w = ConstantOfShape <value = uint8[1] {1}> (s)"
    "  v = QLinearConv <auto_pad = 'SAME'> (q, h, z, w, h, z, h, z)  y = DequantizeLinear (v, h, z)"
)


def test_the_message_says_what_was_found_what_is_allowed_and_what_to_do() -> None:
    node = ir.node("Resize", [], name="up")
    assert one_of(node, "mode", "cubic", ("nearest", "cubic")) == "cubic"
    with pytest.raises(UnsupportedOpError) as error:
        one_of(node, "mode", "area", ("nearest", "cubic"))
    assert str(error.value) == (
        "Resize 'up' (domain 'ai.onnx'): mode='area', allowed are nearest, cubic. Export the model again."
    )


@pytest.mark.parametrize("value", [3, (3,), ((3,),)])
def test_single(value: object) -> None:
    assert single(value) == 3


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("y = Resize <mode = 'area'> (x, , c)", "mode='area', allowed are nearest, linear, cubic"),
        (
            "y = Resize <coordinate_transformation_mode = 'foo'> (x, , c)",
            "coordinate_transformation_mode='foo'",
        ),
        ("y = Resize <nearest_mode = 'round'> (x, , c)", "nearest_mode='round'"),
        ("y = Resize <keep_aspect_ratio_policy = 'fit'> (x, , c)", "keep_aspect_ratio_policy='fit'"),
        ("i = Cast <to = 2> (x)  b = BitShift <direction = 'left'> (i, i)  y = Cast <to = 1> (b)", "'left'"),
        ("y = GridSample <mode = 'area'> (x, x)", "mode='area'"),
        ("y = GridSample <padding_mode = 'mirror'> (x, x)", "padding_mode='mirror'"),
        ("y = RoiAlign <mode = 'mean'> (x, x, s)", "mode='mean'"),
        ("y = RoiAlign <coordinate_transformation_mode = 'pixel'> (x, x, s)", "mode='pixel'"),
        ("y = Gelu <approximate = 'erf'> (x)", "approximate='erf', allowed are none, tanh"),
        ("y = NegativeLogLikelihoodLoss <reduction = 'max'> (x, s)", "reduction='max'"),
        ("y = SoftmaxCrossEntropyLoss <reduction = 'max'> (x, s)", "reduction='max'"),
        (f"{CONV}  y = Conv <auto_pad = 'SAME'> (x, one)", "auto_pad='SAME', allowed are NOTSET, SAME_UPPER"),
        (f"{CONV}  y = ConvTranspose <auto_pad = 'SAME'> (x, one)", "auto_pad='SAME'"),
        (QUANTIZED, "auto_pad='SAME'"),
        ("y = MaxPool <kernel_shape = [1, 1], auto_pad = 'SAME'> (x)", "auto_pad='SAME'"),
        ("y = AveragePool <kernel_shape = [1, 1], auto_pad = 'SAME'> (x)", "auto_pad='SAME'"),
        ("y = LpPool <kernel_shape = [1, 1], auto_pad = 'SAME'> (x)", "auto_pad='SAME'"),
    ],
)
def test_unknown_words_are_refused(body: str, found: str) -> None:
    given = {
        "c": np.ones(4, np.float32),
        "s": np.ones(4, np.int64),
        "h": np.float32(0.5),
        "z": np.uint8(0),
    }
    proto = parse(body.replace("'", '"'), inputs={"x": (1, 4, 4)}, initializers=given)
    with pytest.raises(UnsupportedOpError, match=found):
        imported(proto)


@pytest.mark.parametrize(("opset", "operator"), [(10, "Resize"), (9, "Upsample")])
def test_unknown_words_are_refused_in_older_versions(opset: int, operator: str) -> None:
    proto = parse(
        f'y = {operator} <mode = "cubic"> (x, c)',
        opset=opset,
        inputs={"x": (1, 4, 4)},
        initializers={"c": np.ones(4, np.float32)},
    )
    with pytest.raises(UnsupportedOpError, match="mode='cubic', allowed are nearest, linear"):
        imported(proto)
