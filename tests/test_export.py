"""torch networks to float ONNX files that training can start from."""

from __future__ import annotations

import logging
import pathlib
from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from compare import assert_equivalent, run_onnx
from safetensors.torch import save_file
from torch import Tensor, nn

import mpqtool
from mpqtool.errors import ModelError, OptionError
from mpqtool.export import parse_shape
from mpqtool.passes import pipelines
from mpqtool.passes.load import load_model


class Net(nn.Module):
    def __init__(self, channels: int = 4, *, side: int = 8, note: str = "") -> None:
        super().__init__()
        self.input_shape = (3, side, side)
        self.note = note
        self.conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, 5)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.flatten(self.pool(torch.relu(self.bn(self.conv(image)))), 1))
        return logits


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = Net()
    nn.init.uniform_(net.bn.weight, 0.5, 2)
    assert net.bn.running_mean is not None
    nn.init.uniform_(net.bn.running_mean, -1, 1)
    return net


@pytest.fixture
def out(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "net.onnx"


def _stored(path: pathlib.Path) -> dict[str, np.ndarray]:
    return {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}


def test_same_outputs_for_any_number_of_samples(
    out: pathlib.Path, net: Net, rng: np.random.Generator
) -> None:
    assert mpqtool.export_onnx(net, out) == out
    for samples in (1, 2, 7):
        x = rng.normal(size=(samples, 3, 8, 8)).astype(np.float32)
        with torch.no_grad():
            expected = net.eval()(torch.from_numpy(x)).numpy()
        # two float engines on sums of 27 products: a few units in the last place
        assert_equivalent({"output": expected}, run_onnx(onnx.load(out), {"image": x}), rtol=1e-5, atol=1e-6)


def test_the_file_is_in_normal_form_with_batch_norm_and_names_kept(out: pathlib.Path, net: Net) -> None:
    model = onnx.load(mpqtool.export_onnx(net, out))
    onnx.checker.check_model(model, full_check=True)
    assert Counter(node.op_type for node in model.graph.node) == Counter(
        ["Conv", "BatchNormalization", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    )
    names = {initializer.name for initializer in model.graph.initializer}
    assert names == {name for name in net.state_dict() if not name.endswith("num_batches_tracked")}
    (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
    assert len(conv.input) == 2  # torch spells "no bias" as zeros
    assert (model.opset_import[0].version, model.ir_version) == (21, 10)
    again = pipelines.normalize(load_model(out))
    assert [n.op_type for n in again.graph] == [n.op_type for n in model.graph.node]


def test_paths_of_this_machine_are_not_in_the_file(out: pathlib.Path, net: Net) -> None:
    mpqtool.export_onnx(net, out)
    assert b".py" not in out.read_bytes()


def test_two_exports_give_the_same_bytes(tmp_path: pathlib.Path, net: Net) -> None:
    first, second = (mpqtool.export_onnx(net, tmp_path / name) for name in ("a.onnx", "b.onnx"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("failing", [False, True])
def test_the_network_is_left_in_its_mode(out: pathlib.Path, net: Net, failing: bool) -> None:
    net.train()
    net.bn.eval()  # frozen, as fine-tuning has it
    if failing:
        with pytest.raises(OptionError):
            mpqtool.export_onnx(net, out, input_shape=(5, 8, 8))
    else:
        mpqtool.export_onnx(net, out)
    assert net.training
    assert net.conv.training
    assert not net.bn.training


@pytest.mark.parametrize("arg", [{"channels": 6, "note": "wide"}, ("channels=6", "note=wide")])
def test_arguments_of_the_factory(out: pathlib.Path, arg: dict[str, object] | tuple[str, ...]) -> None:
    mpqtool.export_onnx(f"{__name__}:Net", out, arg=arg)
    assert _stored(out)["conv.weight"].shape == (6, 3, 3, 3)


def test_seed_decides_the_weights_and_leaves_the_generator_alone(tmp_path: pathlib.Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    zero, again, one = (
        _stored(mpqtool.export_onnx(f"{__name__}:Net", tmp_path / f"{i}.onnx", seed=seed))["conv.weight"]
        for i, seed in enumerate((0, 0, 1))
    )
    np.testing.assert_array_equal(zero, again)
    assert not np.array_equal(zero, one)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_weights_are_loaded(tmp_path: pathlib.Path, out: pathlib.Path, net: Net) -> None:
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    mpqtool.export_onnx(f"{__name__}:Net", out, weights=tmp_path / "w.safetensors")
    for name, value in _stored(out).items():
        np.testing.assert_array_equal(value, net.state_dict()[name].numpy(), err_msg=name)


def test_input_shape_given_wins_over_that_of_the_network(out: pathlib.Path, net: Net) -> None:
    mpqtool.export_onnx(net, out, input_shape="3, 6,7")
    (value,) = onnx.load(out).graph.input
    sizes = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
    assert sizes == ["batch", 3, 6, 7]


class _OfNames(nn.Module):
    """A parameter, the input and the output, all wanting one name."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Parameter(torch.tensor([2.0, 3.0]))

    def forward(self, output: Tensor) -> Tensor:
        return self.output * output


def test_names_of_weights_are_kept_from_input_and_output(out: pathlib.Path) -> None:
    mpqtool.export_onnx(_OfNames(), out, input_shape=(2,))
    x = np.array([[1, 10], [2, 20], [3, 30]], np.float32)
    found = run_onnx(onnx.load(out), {"output_": x})
    assert_equivalent({"output__": x * np.array([2, 3], np.float32)}, found, rtol=0, atol=0)
    assert list(_stored(out)) == ["output"]


def _module(forward: Callable[..., object]) -> nn.Module:
    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

    Made.forward = forward  # type: ignore[method-assign,assignment]
    return Made()


def test_several_outputs_and_an_argument_with_a_default(out: pathlib.Path) -> None:
    def forward(self: nn.Module, x: Tensor, scale: float = 2.0) -> list[Tensor]:
        y = self.fc(x)
        return [y, y * scale]

    mpqtool.export_onnx(_module(forward), out, input_shape=(4,))
    graph = onnx.load(out).graph
    assert [value.name for value in graph.input] == ["x"]
    assert [value.name for value in graph.output] == ["output_0", "output_1"]


@pytest.mark.parametrize(
    ("forward", "error", "message"),
    [
        pytest.param(
            lambda self, x: self.fc(x).reshape(2, 2), ModelError, "fixes the batch size", id="batch"
        ),
        pytest.param(
            lambda self, x: {"a": self.fc(x)}, ModelError, r"returns \(dict\), and a tensor", id="dict"
        ),
        pytest.param(
            lambda self, x: (x, [x]), ModelError, r"returns \(Tensor, list\), and a tensor", id="nested"
        ),
        pytest.param(lambda self, x: (), ModelError, r"returns \(\), and a tensor", id="nothing"),
        pytest.param(
            lambda self, x: self.fc(x) if x.sum() > 1 else x,
            ModelError,
            "torch cannot export the network: Could not guard on data-dependent",
            id="branch",
        ),
        pytest.param(
            lambda self, x, y: x, OptionError, r"has forward\(x, y\), and one input", id="two-inputs"
        ),
        pytest.param(lambda self, *x: x[0], OptionError, r"has forward\(\*x\), and one input", id="variable"),
        pytest.param(
            lambda self, *, x: x, OptionError, r"has forward\(\*, x\), and one input", id="keyword-only"
        ),
    ],
)
def test_networks_that_cannot_be_exported(
    out: pathlib.Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    forward: Callable[..., object],
    error: type[Exception],
    message: str,
) -> None:
    records: list[logging.LogRecord] = []
    monkeypatch.setattr(logging.StreamHandler, "emit", lambda _, record: records.append(record))
    with pytest.raises(error, match=message) as caught:
        mpqtool.export_onnx(_module(forward), out, input_shape=(4,))
    assert "\n" not in str(caught.value)
    assert [r.getMessage() for r in records if r.levelno >= logging.WARNING] == []
    assert capfd.readouterr() == ("", "")  # of what torch says on the way, nothing is shown
    assert list(out.parent.iterdir()) == []


def test_half_precision_is_refused(out: pathlib.Path) -> None:
    with pytest.raises(ModelError, match="FLOAT16; float32 is supported"):
        mpqtool.export_onnx(nn.Linear(4, 2).half(), out, input_shape=(4,))


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        pytest.param("resnet20", {}, "does not have the form package.module:name", id="form"),
        pytest.param("mpqtool.zoo:vgg16", {}, "'mpqtool.zoo' has no 'vgg16'", id="name"),
        pytest.param(
            "mpqtool.zoo:resnet20",
            {"arg": {"depth": 3}},
            r"cannot be called with \{'depth': 3\}: got an unexpected keyword",
            id="argument",
        ),
        pytest.param(
            "mpqtool.options:parse_bits", {}, "cannot be called with no arguments: missing", id="no-argument"
        ),
        pytest.param(
            "mpqtool.zoo:resnet20", {"arg": {"classes": -1}}, "raised RuntimeError: Trying to", id="raises"
        ),
        pytest.param("mpqtool.options:parse_bits", {"arg": ["text=W4A4"]}, "gives a tuple, and", id="type"),
        pytest.param(
            "mpqtool.zoo:resnet20",
            {"input_shape": (5, 8, 8)},
            r"does not take a torch.float32 input of shape \[2, 5, 8, 8\]: RuntimeError: ",
            id="shape",
        ),
        pytest.param(
            "mpqtool.zoo:resnet20",
            {"input_shape": (3, 10**9, 10**9)},
            r"does not take a torch.float32 input of shape \[2, 3, 10{9}, 10{9}\]: RuntimeError: ",
            id="memory",
        ),
        pytest.param("torch.nn:Identity", {}, "no attribute input_shape. Give the shape", id="no-shape"),
        pytest.param(
            "mpqtool.zoo:resnet20",
            {"arg": ["classes"]},
            "must be NAME=VALUE, .* got 'classes'",
            id="no-value",
        ),
        pytest.param(
            "mpqtool.zoo:resnet20",
            {"arg": ["classes=2", "classes=3"]},
            "once for each name; got 'classes=3'",
            id="twice",
        ),
        pytest.param(nn.Identity(), {"arg": ["n=2"]}, "arg is for a factory", id="argument-of-a-network"),
        pytest.param(nn.Identity, {}, "gives a type, and a torch.nn.Module is needed", id="class"),
    ],
)
def test_refused(out: pathlib.Path, factory: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        mpqtool.export_onnx(factory, out, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    "shape", ["3,32,32", " 3, 32 ,032", (3, 32, 32), [3, 32, 32], torch.Size([3, 32, 32])]
)
def test_shapes_are_read(shape: object) -> None:
    assert parse_shape(shape) == (3, 32, 32)


@pytest.mark.parametrize("shape", ["", "3,", "3,0", "3x32", "-1,3", "N,3", (), (3.0, 2.0), (3, True), 32])
def test_other_shapes_are_refused(shape: object) -> None:
    with pytest.raises(OptionError, match=r"must be positive integers between commas, .* got "):
        parse_shape(shape)
