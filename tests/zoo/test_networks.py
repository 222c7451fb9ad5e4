"""The networks are those of the papers: multiply-accumulates, parameters and names."""

from __future__ import annotations

import hashlib
import inspect
import math
import pathlib
import re
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mpqtool import zoo
from mpqtool.cli.export import command

# MACs and parameters in full; the papers and torchvision print the same, rounded:
FULL = {
    "resnet20": (40_813_184, 272_474),  # 0.27 M (He et al., table 6), whose shortcuts have no weights
    "vgg_small": (607_600_640, 4_660_106),  # 4.66 M
    "mobilenet_v1": (568_740_352, 4_231_976),  # 569 M MACs, 4.2 M (Howard et al., table 4)
    "resnet18": (1_814_073_344, 11_689_512),  # 1.8 G MACs (He et al., table 1), 11.69 M (torchvision)
    "efficientnet_b0": (385_814_752, 5_288_548),  # 0.39 G MACs, 5.3 M (Tan and Le, table 2)
    "mobilenet_v3_small": (56_510_400, 2_542_856),  # 56 M MACs, 2.5 M (Howard et al., table 3)
    "transformer": (82_183_424, 1_204_874),
}


def _cost(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, *shape, device="meta"))
    return counter.get_total_flops() // 2, sum(p.numel() for p in module.parameters())


def _meta(factory: Callable[..., nn.Module], **arguments: object) -> nn.Module:
    with torch.device("meta"):
        return factory(**arguments).eval()


def test_every_network_is_counted() -> None:
    assert set(FULL) == set(zoo.__all__)


@pytest.mark.parametrize("name", FULL)
def test_cost_is_that_of_the_paper(name: str) -> None:
    module = _meta(getattr(zoo, name))
    assert _cost(module, module.input_shape) == FULL[name]


def _arguments(name: str) -> dict[str, object]:
    parameters = inspect.signature(getattr(zoo, name)).parameters
    return {key: parameter.default for key, parameter in parameters.items()}


def test_page_says_what_is_true() -> None:
    page = pathlib.Path(__file__).parents[2] / "docs" / "zoo.md"
    rows = {
        cells[0].strip("`"): cells[1:]
        for line in page.read_text().splitlines()
        if re.match(r"\| `\w+` \| [\d,]+ \|", line)
        for cells in [line.strip("| ").split(" | ")]
    }
    assert set(rows) == set(zoo.__all__)
    for name, (macs, parameters, shape, arguments) in rows.items():
        assert (int(macs.replace(",", "")), int(parameters.replace(",", ""))) == FULL[name]
        assert shape == ",".join(map(str, _meta(getattr(zoo, name)).input_shape))
        defaults = [f"`{key}={str(value).lower()}`" for key, value in _arguments(name).items()]
        assert arguments.split() == defaults


def test_help_says_what_is_true() -> None:
    assert command.help is not None
    common, table = command.help.split("\b")
    assert "in_channels and classes" in common
    rows = {words[0]: words[1:] for words in map(str.split, table.strip().splitlines())}
    assert set(rows) == set(zoo.__all__)
    for name, words in rows.items():
        assert {"in_channels", "classes", *words} == set(_arguments(name))


@pytest.mark.parametrize(
    ("width", "macs"),
    [(0.75, 325e6), (0.5, 149e6), (0.25, 41e6)],  # Howard et al., MobileNets, table 6
)
def test_narrower_mobilenet_v1(width: float, macs: float) -> None:
    module = _meta(zoo.mobilenet_v1, width=width)
    assert _cost(module, module.input_shape)[0] == pytest.approx(macs, rel=0.01)


def test_wider_and_deeper_efficientnet() -> None:
    b2 = _meta(zoo.efficientnet_b0, width=1.1, depth=1.2)
    assert _cost(b2, (3, 260, 260))[1] == 9_109_994  # torchvision's count; 9.2 M (Tan and Le, table 2)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "mobilenet_v1", "mobilenet_v3_small"])
def test_small_ones_take_images_of_32_pixels_and_shrink_them_less(name: str) -> None:
    small, full = (_meta(getattr(zoo, name), small=small) for small in (True, False))
    assert small.input_shape == (3, 32, 32)
    assert _cost(small, (3, 32, 32))[0] > 2 * _cost(full, (3, 32, 32))[0]


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize(("in_channels", "classes"), [(1, 7), (4, 2)])
def test_channels_and_classes(name: str, in_channels: int, classes: int) -> None:
    module = _meta(getattr(zoo, name), in_channels=in_channels, classes=classes)
    assert module.input_shape[0] == in_channels
    assert module(torch.zeros(2, *module.input_shape, device="meta")).shape == (2, classes)


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("resnet18", "84fb10d9c6905a1c"),
        ("efficientnet_b0", "a04d0792ee390a49"),
        ("mobilenet_v3_small", "5f0efaf3ff4ac979"),
    ],
)
def test_state_dictionary_is_that_of_torchvision(name: str, digest: str) -> None:
    """Names and shapes in order; the digests were taken from the networks of torchvision 0.28.0."""
    state = _meta(getattr(zoo, name)).state_dict()
    text = "\n".join(f"{key} {tuple(value.shape)}" for key, value in state.items())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        (zoo.vgg_small, {"size": 7}, "size must be at least 8, .* got 7"),
        (zoo.transformer, {"size": 30}, "size must be a multiple of patch, 4; got 30"),
        (zoo.transformer, {"width": 30}, "width must be a multiple of heads, 4; got 30"),
        (zoo.mobilenet_v1, {"width": -1}, "width must be a positive number; got -1"),
        (zoo.mobilenet_v3_small, {"width": "2"}, "width must be a positive number; got '2'"),
        (zoo.mobilenet_v1, {"width": math.inf}, "width must be a positive number; got inf"),
        (zoo.efficientnet_b0, {"depth": 0}, "depth must be a positive number; got 0"),
        (zoo.resnet18, {"width": 8.5}, "width must be a positive integer; got 8.5"),
        (zoo.vgg_small, {"size": 0}, "size must be a positive integer; got 0"),
        (zoo.transformer, {"heads": 0}, "heads must be a positive integer; got 0"),
    ],
)
def test_sizes_that_do_not_fit(
    factory: Callable[..., nn.Module], arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        factory(**arguments)


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("key", ["in_channels", "classes"])
@pytest.mark.parametrize("value", [0, True, "text"])
def test_counts_that_are_none(name: str, key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{key} must be a positive integer; got "):
        getattr(zoo, name)(**{key: value})
