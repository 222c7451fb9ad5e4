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
from click.testing import CliRunner
from compare import assert_equivalent, run_onnx
from safetensors.torch import save_file
from torch import Tensor, nn

import mpqtool
from mpqtool.cli import cli
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
    assert b".py" not in out.read_bytes()  # no paths of this machine
    again = pipelines.normalize(load_model(out))
    assert [n.op_type for n in again.graph] == [n.op_type for n in model.graph.node]


class _Upsampling(nn.Module):
    input_shape = (3, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 6, 2, stride=2)
        self.fc = nn.Linear(6, 5)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.up(image).flatten(2).transpose(1, 2))
        return logits


def test_what_integers_need_is_not_in_the_float_file(out: pathlib.Path) -> None:
    net = _Upsampling()
    model = onnx.load(mpqtool.export_onnx(net, out))
    ops = ["ConvTranspose", "Reshape", "Transpose", "MatMul", "Add"]
    assert [node.op_type for node in model.graph.node] == ops
    assert _stored(out)["up.weight"].shape == net.up.weight.shape
    again = pipelines.normalize(load_model(out))
    assert {"Conv", "Gemm"} < {node.op_type for node in again.graph}


def test_two_exports_give_the_same_bytes(tmp_path: pathlib.Path, net: Net) -> None:
    first, second = (mpqtool.export_onnx(net, tmp_path / name) for name in ("a.onnx", "b.onnx"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("failing", [False, True])
def test_the_network_is_left_in_its_mode(out: pathlib.Path, net: Net, failing: bool) -> None:
    net.train()
    net.bn.eval()  # frozen, as fine-tuning has it
    if failing:
        with pytest.raises(ModelError):
            mpqtool.export_onnx(net, out, input_shape=(5, 8, 8))
    else:
        mpqtool.export_onnx(net, out)
    assert net.training
    assert net.conv.training
    assert not net.bn.training


def test_arguments_of_the_factory(out: pathlib.Path) -> None:
    mpqtool.export_onnx(f"{__name__}:Net", out, arg=("channels=6", "note=wide"))
    assert _stored(out)["conv.weight"].shape == (6, 3, 3, 3)


def test_seed_decides_the_weights(tmp_path: pathlib.Path) -> None:
    zero, one = (
        _stored(mpqtool.export_onnx(f"{__name__}:Net", tmp_path / f"{seed}.onnx", seed=seed))["conv.weight"]
        for seed in (0, 1)
    )
    assert not np.array_equal(zero, one)


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


class _Normalizing(nn.Module):
    """Buffers and a parameter with the names of operators, which torch gives to what these make."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 1.5]))
        self.register_buffer("std", torch.tensor([2.0, 4.0]))
        self.relu = nn.Parameter(torch.tensor([1.0, -1.0]))

    def forward(self, mean: Tensor) -> Tensor:
        return torch.relu((mean - self.mean) / self.std + self.relu).mean(1, keepdim=True)


def test_weights_may_have_the_names_of_operators(out: pathlib.Path, rng: np.random.Generator) -> None:
    network = _Normalizing()
    mpqtool.export_onnx(network, out, input_shape=(2,))
    x = rng.normal(size=(3, 2)).astype(np.float32)
    expected = network(torch.from_numpy(x)).detach().numpy()
    # four operators on two numbers: a unit in the last place of each
    assert_equivalent({"output": expected}, run_onnx(onnx.load(out), {"mean_": x}), rtol=1e-6, atol=1e-6)
    stored = _stored(out)
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(stored[name], value.numpy())


def test_a_shared_weight_has_the_first_of_its_names(
    out: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    first, last = network[0], network[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    last.weight = first.weight
    mpqtool.export_onnx(network, out, input_shape=(3,))
    assert set(_stored(out)) == {"0.weight", "0.bias", "2.bias"}
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_a_bias_that_starts_at_zero_is_kept_before_batch_norm(out: pathlib.Path) -> None:
    layers = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3, bias=False), nn.Flatten()
    network = nn.Sequential(*layers)
    assert isinstance(network[0], nn.Conv2d)
    assert network[0].bias is not None
    nn.init.zeros_(network[0].bias)
    mpqtool.export_onnx(network, out, input_shape=(1, 6, 6))
    assert {"0.weight", "0.bias", "2.weight"} <= set(_stored(out))
    assert "2.bias" not in _stored(out)


class _Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))
        self.unused = nn.Linear(1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y


def test_parameters_that_are_not_in_the_file_are_named(tmp_path: pathlib.Path) -> None:
    arguments = ["export", f"{__name__}:_Unused", "--input-shape", "4", "-o", str(tmp_path / "m.onnx")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: not in the file under their names, as forward does not use them or ")
    weight = "fc.parametrizations.weight.original"
    assert line.endswith(f": {weight}0, {weight}1, unused.weight")


def test_no_notes_of_passes_are_in_the_file(out: pathlib.Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = onnx.load(mpqtool.export_onnx(network, out, input_shape=(1, 5, 5)))
    assert [list(node.metadata_props) for node in model.graph.node] == [[]] * len(model.graph.node)
    assert b"mpqtool" not in out.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param(["--weights", "no.pt"], 1, "Cannot read weights", id="weights"),
        pytest.param(["--input-shape", "5,8,8"], 1, "forward raised", id="forward"),
        pytest.param(["--input-shape", "5x8"], 2, "--input-shape must be", id="shape"),
        pytest.param(["--arg", "channels=0.5"], 2, "--arg channels must be an integer", id="argument"),
        pytest.param(["-o", "."], 1, "Cannot write '.': it is a folder", id="folder"),
    ],
)
def test_exit_status_and_one_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["export", f"{__name__}:Net", "-o", "m.onnx", *arguments])
    assert result.exit_code == code
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"mpqtool: {message}")
    assert list(tmp_path.iterdir()) == []


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
            lambda self, x, y: x, ModelError, r"has forward\(x, y\), and one input", id="two-inputs"
        ),
        pytest.param(
            lambda self, x: self.fc(x[:, :3]),
            ModelError,
            r"forward raised RuntimeError: mat1 .*, for a torch.float32 input of shape \[2, 4\]. If one",
            id="raises",
        ),
        pytest.param(
            lambda self, x: self.fc(torch.empty(*x.shape, 10**15)),
            ModelError,
            "forward raised RuntimeError: ",
            id="memory",
        ),
        pytest.param(
            lambda self, x: nn.functional.embedding(x, self.fc.weight),
            ModelError,
            "takes integers, .* one float32 input can be exported. Use torch.onnx.export",
            id="integers",
        ),
        pytest.param(
            lambda self, x: self.fc(x) + torch.randn(2),
            ModelError,
            r"random numbers \(RandomNormalLike\)",
            id="random",
        ),
        pytest.param(
            lambda self, x: nn.functional.dropout(self.fc(x), training=True),
            ModelError,
            r"random numbers \(Dropout\)",
            id="dropout",
        ),
        pytest.param(lambda self, *x: x[0], ModelError, r"has forward\(\*x\), and one input", id="variable"),
        pytest.param(
            lambda self, *, x: x, ModelError, r"has forward\(\*, x\), and one input", id="keyword-only"
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
        pytest.param("torch.nn:Identity", {}, "no attribute input_shape. Give the shape", id="no-shape"),
        pytest.param(nn.Identity(), {"arg": ["n=2"]}, "arg is for a factory", id="argument-of-a-network"),
        pytest.param(nn.Identity, {}, r"must be a torch.nn.Module .* Give an instance", id="class"),
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
