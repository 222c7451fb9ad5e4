"""All passes together, on what exporters write."""

from __future__ import annotations

import pathlib
import time
import warnings
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from compare import assert_equivalent, run_onnx
from numpy.typing import NDArray
from onnx_text import ops, parse

from mpqtool.passes.errors import ModelError
from mpqtool.passes.normalize import MergeTransposePass
from mpqtool.passes.pipelines import fold_batch_norm, normalize
from mpqtool.zoo import resnet20


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    network = resnet20(in_channels=1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, -1, 1.5)
            torch.nn.init.normal_(module.bias)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 2)
    return network.eval()


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "optimized"])
def exported(request: pytest.FixtureRequest, network: torch.nn.Module) -> ir.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            network,
            (torch.randn(2, 1, 28, 28),),
            dynamo=True,
            optimize=request.param,
            dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            verbose=False,
        )
    return ir.from_proto(ir.to_proto(program.model))


@pytest.fixture
def images(rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    return {"x": rng.normal(size=(3, 1, 28, 28)).astype(np.float32)}


@pytest.mark.parametrize("folded", [False, True], ids=["kept", "folded"])
def test_a_torch_export_becomes_seven_operators(
    exported: ir.Model, images: dict[str, NDArray[Any]], folded: bool
) -> None:
    had_norm = "BatchNormalization" in ops(exported)

    model = normalize(exported, fold_batch_norm=folded)

    expected = {"Conv", "Relu", "Add", "GlobalAveragePool", "Flatten", "Gemm"}
    assert set(ops(model)) == expected | ({"BatchNormalization"} if had_norm and not folded else set())
    assert ops(model).count("Conv") == 21
    assert not isinstance(model.graph.inputs[0].shape[0], int)
    # Logits are of the order of one; 20 layers of float32 sums in another order.
    assert_equivalent(run_onnx(exported, images), run_onnx(model, images), rtol=1e-5, atol=1e-5)


def test_parameters_keep_the_names_of_the_module(exported: ir.Model, network: torch.nn.Module) -> None:
    model = normalize(exported, fold_batch_norm=True)
    weights = {name for name, value in network.named_parameters() if value.ndim > 1} | {"fc.bias"}
    assert weights <= set(model.graph.initializers)
    others = {name for name in model.graph.initializers if name not in weights}
    assert others == {f"{name}_bias" for name in weights if name not in ("fc.weight", "fc.bias")}


def test_both_forms_share_their_names(exported: ir.Model) -> None:
    kept, folded = normalize(exported), normalize(exported, fold_batch_norm=True)
    assert {v.name for n in folded.graph for v in n.outputs} <= {
        v.name for n in kept.graph for v in n.outputs
    }
    assert ir.to_proto(fold_batch_norm(kept)) == ir.to_proto(folded)


def test_the_normal_form_is_a_fixed_point(exported: ir.Model) -> None:
    before = ir.to_proto(exported)
    model = normalize(exported)
    assert ir.to_proto(exported) == before
    assert ir.to_proto(normalize(model)) == ir.to_proto(model)


def test_no_trace_of_the_exporter_is_left(exported: ir.Model) -> None:
    model = normalize(exported)
    assert all(key.startswith("mpqtool.") for node in model.graph for key in node.metadata_props)
    assert str(pathlib.Path(torch.__file__).parent) not in str(ir.to_proto(model))


_LEGACY = """
    net (
        float[n,2,6,6] x, float[3,2,3,3] w, float[3] g, float[3] b, float[3] m, float[3] v,
        float[3,4] fw, float[4] fb
    ) => (float[n,4] y) {
        i = Identity(x)
        c = Conv<auto_pad="SAME_UPPER">(i, w)
        z = BatchNormalization<epsilon=0.001>(c, g, b, m, v)
        r = Relu(z)
        d = Dropout(r)
        p = AUTO
        f = Flatten(p)
        t = MatMul(f, fw)
        y = Add(t, fb)
    }
"""


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17])
@pytest.mark.parametrize("pool", ["GlobalAveragePool", "ReduceMean<axes=[2,3]>"])
def test_an_old_model_with_weights_among_the_inputs(rng: np.random.Generator, opset: int, pool: str) -> None:
    weights = {
        "w": rng.normal(size=(3, 2, 3, 3)),
        "g": rng.normal(size=3),
        "b": rng.normal(size=3),
        "m": rng.normal(size=3),
        "v": rng.uniform(0.5, 2, size=3),
        "fw": rng.normal(size=(3, 4)),
        "fb": rng.normal(size=4),
    }
    feeds = {"x": rng.normal(size=(2, 2, 6, 6)).astype(np.float32)}
    model = parse(_LEGACY.replace("AUTO", f"{pool}(d)"), weights, opset=opset)
    before = run_onnx(model, feeds)

    kept, folded = normalize(model), normalize(model, fold_batch_norm=True)

    assert [value.name for value in kept.graph.inputs] == ["x"]
    assert ops(kept) == ["Conv", "BatchNormalization", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert ops(folded) == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert set(folded.graph.initializers) == {"w", "w_bias", "fw", "fb"}
    assert_equivalent(before, run_onnx(kept, feeds), rtol=1e-5, atol=1e-5)  # sums in another order
    assert_equivalent(before, run_onnx(folded, feeds), rtol=1e-5, atol=1e-5)
    for result in (kept, folded):
        onnx.checker.check_model(ir.to_proto(result), full_check=True)


def test_what_has_no_normal_form_stays() -> None:
    model = normalize(
        parse(
            "net (float[n,3] x, bool k) => (float[n,3] y) { t = com.microsoft.Gelu(x) y = If(k) "
            "<then_branch = a () => (float[n,3] p) { p = Relu(t) }, "
            "else_branch = b () => (float[n,3] q) { q = Abs(t) }> }"
        )
    )
    assert ops(model) == ["Gelu", "If"]


def test_other_float_types_are_refused() -> None:
    model = parse("net (float16[n,3] x) => (float16[n,3] y) { y = Relu(x) }")
    with pytest.raises(ModelError, match=r"'x': it is FLOAT16; float32 is supported"):
        normalize(model)


def test_the_reason_is_not_wrapped() -> None:
    model = parse("net (float[n,3] x) => (float[n,3] y) { y = Relu(x) }")
    model.graph.opset_imports[""] = 5
    with pytest.raises(ModelError, match=r"declares opset 5"):
        normalize(model)


_CALL = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
net (float[2,3,4] x) => (float[2,3,4] y) { y = own.F(x) }
<domain: "own", opset_import: ["IMPORT" : OPSET]> F (a) => (b) { b = BODY }"""


def _calling(body: str, opset: int, domain: str = "") -> ir.Model:
    text = _CALL.replace("BODY", body).replace("OPSET", str(opset)).replace("IMPORT", domain)
    return ir.from_proto(onnx.parser.parse_model(text))


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
@pytest.mark.parametrize("body", ["Relu(a)", "Softmax<axis=1>(a)"])
def test_a_function_of_another_opset(body: str, domain: str, rng: np.random.Generator) -> None:
    feeds = {"x": rng.normal(size=(2, 3, 4)).astype(np.float32)}
    x = feeds["x"]
    exponents = np.exp(x) / np.exp(x).sum((1, 2), keepdims=True)  # one axis of all from `axis` on
    result = run_onnx(normalize(_calling(body, 11, domain)), feeds)
    expected = np.maximum(x, 0) if body.startswith("Relu") else exponents
    assert_equivalent({"y": expected}, result, rtol=1e-6, atol=0)  # sums in another order


def test_a_function_that_cannot_be_converted() -> None:
    with pytest.raises(
        ModelError,
        match=r"Cannot inline 'F' of opset 11 in a model of opset 17: .*'F' .* opset 11 to 21: Dropout",
    ):
        normalize(_calling("Identity(a) m, n = Dropout(a) k = Not(n)", 11))


def test_an_unused_function_of_another_opset() -> None:
    model = _calling("Relu(a)", 11)
    model.graph[0].domain, model.graph[0].op_type = "", "Abs"
    assert ops(normalize(model)) == ["Abs"]


def test_an_error_inside_of_a_pass_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: MergeTransposePass, _model: ir.Model) -> None:
        raise RecursionError("too\ndeep")

    monkeypatch.setattr(MergeTransposePass, "call", fail)
    model = parse("net (float[n,3] x) => (float[n,3] y) { y = Relu(x) }")
    with pytest.raises(
        ModelError, match=r"MergeTransposePass failed on it with RecursionError: too deep\. Export"
    ):
        normalize(model)


@pytest.mark.parametrize(
    ("op", "weights", "opset"),
    [
        ("Relu({a})", {}, 21),
        ("Add({a}, c)", {"c": 1.0}, 21),
        ("Mul({a}, c)", {"c": 0.999}, 21),
        ("Clip<min=0.0, max=6.0>({a})", {}, 7),
        ("Softmax<axis=1>({a})", {}, 11),
    ],
    ids=["relu", "add", "mul", "clip", "softmax"],
)
def test_long_chains(op: str, weights: dict[str, float], opset: int) -> None:
    nodes = " ".join(f"v{i + 1} = {op.format(a=f'v{i}')}" for i in range(1000))
    text = f"net (float[n,3,4] v0) => (float[n,3,4] y) {{ {nodes} y = Neg(v1000) }}"
    model = parse(text, weights, opset=opset)
    start = time.process_time()
    normalize(model)
    assert time.process_time() - start < 15  # measured: 1 to 4; a quadratic step takes minutes
