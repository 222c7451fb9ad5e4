from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch
from onnx_text import parse
from torch import Tensor

from mpqtool.errors import DataError
from mpqtool.importer import import_graph
from mpqtool.methods.batch_norm import held_statistics, output_statistics, reestimate
from mpqtool.passes.load import load_model
from mpqtool.passes.normalize import without_batch_norm
from mpqtool.passes.pipelines import fold_batch_norm, insert_batch_norm, normalize

TEXT = """
net (float[N, 2, 3] x) => (float[N, 2, 3] y)
    <float[2] s = {1, 1}, float[2] b = {0, 0}, float[2] m = {9, 9}, float[2] v = {9, 9}>
    { y = BatchNormalization (x, s, b, m, v) }
"""


def test_statistics_become_the_averages_over_all_samples(rng: np.random.Generator) -> None:
    network = import_graph(normalize(parse(TEXT))).train()
    x = torch.from_numpy(rng.normal(loc=3, scale=2, size=(50, 2, 3)).astype(np.float32))

    reestimate(network, [(x[:40],), (x[40:],)])  # batches of different sizes

    buffers = dict(network.named_buffers())
    torch.testing.assert_close(buffers["m"], x.mean((0, 2)), rtol=1e-5, atol=0)  # float32 sums of 150 terms
    inside = [part.transpose(0, 1).flatten(1).var(1) for part in (x[:40], x[40:])]
    torch.testing.assert_close(buffers["v"], 0.8 * inside[0] + 0.2 * inside[1], rtol=1e-5, atol=0)
    assert network.training


FLAT = TEXT.replace("[N, 2, 3]", "[N, 2]")


def test_a_last_batch_of_one_sample_is_left_out(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(5, 2)).astype(np.float32))
    networks = [import_graph(normalize(parse(FLAT))) for _ in range(2)]

    reestimate(networks[0], [(x[:4],), (x[4:],)])

    reestimate(networks[1], [(x[:4],)])
    one, other = (dict(network.named_buffers()) for network in networks)
    assert all(torch.equal(one[name], other[name]) for name in "mv")


def test_a_single_sample_has_statistics_over_its_pixels() -> None:
    network = import_graph(normalize(parse(TEXT)))
    reestimate(network, [(torch.arange(6.0).view(1, 2, 3),)])
    assert dict(network.named_buffers())["m"].tolist() == [1, 4]


def test_momentum_and_mode_are_given_back_whatever_happens(rng: np.random.Generator) -> None:
    network = import_graph(normalize(parse(TEXT))).eval()
    (norm,) = [m for m in network.modules() if hasattr(m, "momentum")]
    before = norm.momentum
    try:
        reestimate(network, [(torch.zeros(2, 7),)])
    except (RuntimeError, ValueError):
        pass
    else:
        raise AssertionError("a batch of another shape must not pass")
    assert norm.momentum == before
    assert not network.training


def test_held_statistics_are_those_from_before(rng: np.random.Generator) -> None:
    network, free = (import_graph(normalize(parse(TEXT))).train() for _ in range(2))
    x = torch.from_numpy(rng.normal(size=(4, 2, 3)).astype(np.float32))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    with held_statistics(network):
        (held,) = network(x)

    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(held, free(x)[0])  # normalized by the batch all the same
    network(x)
    assert all(torch.equal(tensor, free.state_dict()[name]) for name, tensor in network.state_dict().items())
    assert not torch.equal(network.state_dict()["m"], before["m"])


def test_statistics_are_held_no_longer_whatever_happens() -> None:
    network = import_graph(normalize(parse(TEXT))).train()
    (norm,) = [m for m in network.modules() if hasattr(m, "momentum")]
    before = norm.momentum
    with pytest.raises(RuntimeError), held_statistics(network):
        network(torch.zeros(2, 7))
    assert norm.momentum == before > 0


_SQUARES = "net (float[N, 2, p] x) => (float[N, 2, p] y) { a = Neg(x) y = Mul(a, a) }"


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_statistics_of_values_over_all_batches(rng: np.random.Generator, mean: float) -> None:
    network = import_graph(normalize(parse(_SQUARES)))
    x = rng.normal(loc=[[mean], [-3]], scale=[[2], [0.1]], size=(50, 2, 6)).astype(np.float32)
    batches = [(torch.from_numpy(part),) for part in (x[:1], x[1:40], x[40:40], x[40:, :, :4], x[40:, :, 4:])]

    found = output_statistics(network, ["a", "y"], iter(batches))

    assert found.keys() == {"a", "y"}
    for name, values in {"a": -x, "y": x * x}.items():
        channels = values.astype(np.float64).swapaxes(0, 1).reshape(2, -1)
        np.testing.assert_allclose(found[name][0], channels.mean(1), rtol=1e-12)  # sums of float64
        # A mean that is large next to the deviation takes away as many digits, of 16.
        np.testing.assert_allclose(found[name][1], channels.var(1), rtol=1e-9)
    assert network.training


def test_a_constant_channel_has_no_variance() -> None:
    network = import_graph(normalize(parse(_SQUARES)))
    x = torch.full((3, 2, 4), 0.1)

    (mean, variance) = output_statistics(network, ["a"], [(x,), (x,)])["a"]

    np.testing.assert_allclose(mean, np.float32(-0.1), rtol=1e-15)
    assert variance.dtype == np.float64
    np.testing.assert_allclose(variance, 0, atol=1e-30)  # squares of float64 roundings


@pytest.mark.parametrize("number", [np.inf, np.nan])
def test_values_that_are_not_finite_are_named(number: float) -> None:
    network = import_graph(normalize(parse(_SQUARES))).eval()
    x = torch.ones(2, 2, 4)
    x[1, 0, 2] = number

    with pytest.raises(DataError, match=r"The value 'y' becomes infinite or NaN"):
        output_statistics(network, ["y"], [(x,)])
    assert not network.training


def test_a_value_that_is_not_there_is_named() -> None:
    network = import_graph(normalize(parse(_SQUARES)))
    with pytest.raises(ValueError, match="'z' has no statistics"):
        output_statistics(network, ["y", "z"], [(torch.ones(2, 2, 4),)])


def test_statistics_are_those_of_the_network_that_is_used(rng: np.random.Generator) -> None:
    """In training mode BatchNormalization would take those of the batch."""
    network = import_graph(normalize(parse(TEXT)))
    x = torch.from_numpy(rng.normal(size=(5, 2, 3)).astype(np.float32))

    mean, _ = output_statistics(network, ["y"], [(x,)])["y"]

    np.testing.assert_allclose(mean, network.eval()(x)[0].mean((0, 2)).detach(), rtol=1e-5)
    assert dict(network.named_buffers())["m"].tolist() == [9, 9]


def test_a_folded_network_gets_its_normalization_back() -> None:
    examples = pathlib.Path(__file__).parents[2] / "examples"
    with np.load(examples / "digits.npz") as data:
        images = torch.from_numpy(data["image"])
    model = fold_batch_norm(normalize(load_model(examples / "digits.onnx")))
    network = import_graph(model).eval()
    names = without_batch_norm(model)
    convs = [str(node.outputs[0].name) for node in model.graph if node.op_type == "Conv"]
    assert list(names) == convs  # a Gemm is last

    statistics = output_statistics(network, names, [(part,) for part in images.split(256)])
    inserted = import_graph(insert_batch_norm(model, statistics))

    def logits(module: torch.nn.Module) -> Tensor:
        with torch.no_grad():
            return module(images)[0]  # type: ignore[no-any-return]

    before = logits(network)
    # Eight layers, each exact to a few roundings of its largest number.
    torch.testing.assert_close(logits(inserted.eval()), before, rtol=0, atol=1e-6 * before.abs().max().item())
    # The statistics of all images, taken anew: they were those of the layers as they are now.
    torch.testing.assert_close(
        logits(inserted.train()), before, rtol=0, atol=1e-5 * before.abs().max().item()
    )
