"""torch modules to float ONNX files that training can start from."""

from __future__ import annotations

import pathlib
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from compare import assert_equivalent, run_onnx
from safetensors.torch import save_file
from torch import Tensor, nn

import mpqtool
from mpqtool.errors import ModelError, OptionError


class Net(nn.Module):
    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(torch.relu(self.bn(self.conv(x)))), 1))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = Net()
    nn.init.uniform_(net.bn.weight, 0.5, 2)
    assert net.bn.running_mean is not None
    nn.init.uniform_(net.bn.running_mean, -1, 1)
    return net


def test_same_outputs_for_any_number_of_samples(
    tmp_path: pathlib.Path, net: Net, rng: np.random.Generator
) -> None:
    path = mpqtool.export_onnx(net, tmp_path / "net.onnx", inputs={"image": (None, 3, 8, 8)})
    for samples in (1, 2, 7):
        x = rng.normal(size=(samples, 3, 8, 8)).astype(np.float32)
        with torch.no_grad():
            expected = net.eval()(torch.from_numpy(x)).numpy()
        # two float engines on sums of 27 products: a few units in the last place
        assert_equivalent({"y": expected}, run_onnx(onnx.load(path), {"image": x}), rtol=1e-5, atol=1e-6)


def test_batch_norm_and_names_are_kept(tmp_path: pathlib.Path, net: Net) -> None:
    model = onnx.load(mpqtool.export_onnx(net, tmp_path / "net.onnx"))
    assert Counter(node.op_type for node in model.graph.node)["BatchNormalization"] == 1
    names = {initializer.name for initializer in model.graph.initializer}
    assert {name for name in net.state_dict() if not name.endswith("num_batches_tracked")} <= names
    assert not {"Expand", "Shape", "CastLike", "Constant"} & {node.op_type for node in model.graph.node}
    (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
    assert len(conv.input) == 2
    assert model.opset_import[0].version == 18


def test_weights_are_loaded(tmp_path: pathlib.Path, net: Net) -> None:
    save_file({**net.state_dict(), "momentum/conv.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    path = mpqtool.export_onnx(Net(), tmp_path / "net.onnx", weights=tmp_path / "w.safetensors")
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    np.testing.assert_array_equal(stored["conv.weight"], net.conv.weight.detach().numpy())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        pytest.param(
            {"conv.weight": torch.zeros(4, 3, 3, 3)}, r"lacks 6 of the module's tensors", id="missing"
        ),
        pytest.param(
            Net(8).state_dict(), r"has shape \(8, 3, 3, 3\), the module's has \(4, 3, 3, 3\)", id="shape"
        ),
    ],
)
def test_weights_that_do_not_fit(
    tmp_path: pathlib.Path, net: Net, tensors: dict[str, Tensor], message: str
) -> None:
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=message):
        mpqtool.export_onnx(net, tmp_path / "net.onnx", weights=tmp_path / "w.safetensors")
    assert not (tmp_path / "net.onnx").exists()


def test_weights_that_are_no_weights(tmp_path: pathlib.Path, net: Net) -> None:
    with pytest.raises(ModelError, match="No such file"):
        mpqtool.export_onnx(net, tmp_path / "net.onnx", weights=tmp_path / "none")
    (tmp_path / "w").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"is not a \.safetensors file"):
        mpqtool.export_onnx(net, tmp_path / "net.onnx", weights=tmp_path / "w")


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        pytest.param("resnet20", {}, "does not have the form package.module:name", id="form"),
        pytest.param("mpqtool.zoo:vgg", {}, "'mpqtool.zoo' has no 'vgg'", id="name"),
        pytest.param("mpqtool.zoo:resnet20", {"arguments": {"depth": 3}}, "raised TypeError", id="argument"),
        pytest.param(
            "mpqtool.options:parse_bits", {"arguments": {"text": "W4A4"}}, "returned a tuple", id="type"
        ),
        pytest.param(
            "mpqtool.zoo:resnet20", {"inputs": {"x": (None, 5, 8, 8)}}, "does not run on", id="shape"
        ),
        pytest.param(
            "mpqtool.zoo:resnet20",
            {"inputs": {"x": (None, 3, None, 8)}},
            "only the first dimension",
            id="free",
        ),
    ],
)
def test_refused(tmp_path: pathlib.Path, factory: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        mpqtool.export_onnx(factory, tmp_path / "net.onnx", **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
