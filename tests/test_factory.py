"""Arguments that come as text reach the factory as what they mean, or are refused in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from mpqtool.errors import ModelError, OptionError
from mpqtool.factory import make_network

if TYPE_CHECKING:
    from decimal import Decimal


class Recording(nn.Module):
    def __init__(
        self,
        flag: bool = False,
        count: int = 1,
        factor: float = 1.0,
        size: int | None = None,
        name: str = "",
        other: Sequence[int] = (),
        bare=False,  # type: ignore[no-untyped-def]
        **more: Any,
    ) -> None:
        super().__init__()
        self.given = {
            "flag": flag, "count": count, "factor": factor, "size": size, "name": name, "other": other,
            "bare": bare, **more,
        }  # fmt: skip


def unresolved(flag: bool = False, price: Decimal | None = None) -> nn.Module:
    """Make a network; the annotation names what is not there at run time."""
    return Recording(flag=flag, price=price)


def raising(kind: str = "ValueError") -> nn.Module:
    """Raise what is asked for."""
    raise {"ValueError": ValueError, "RuntimeError": RuntimeError}[kind]("no luck.\nsecond line")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("flag=true", True),
        ("flag=FALSE", False),
        ("flag=True", True),
        ("count=3", 3),
        ("count=-3", -3),
        ("factor=0.5", 0.5),
        ("factor=2", 2),
        ("size=none", None),
        ("size=4", 4),
        ("name=wide", "wide"),
        ("name=50", "50"),
        ("name=true", "true"),
        ("other=(1, 2)", (1, 2)),
        ("other=text", "text"),
        ("bare=false", False),
        ("extra=no", "no"),
        ("extra=a=b", "a=b"),
    ],
)
def test_text_is_read(text: str, value: object) -> None:
    network = make_network(f"{__name__}:Recording", [text], seed=0)
    assert isinstance(network, Recording)
    found = network.given[text.partition("=")[0]]
    assert found == value
    assert type(found) is type(value)


def test_values_from_python_are_handed_on_as_they_are() -> None:
    network = make_network(f"{__name__}:Recording", {"flag": "no", "count": 0.5}, seed=0)
    assert isinstance(network, Recording)
    assert (network.given["flag"], network.given["count"]) == ("no", 0.5)


def test_annotations_that_cannot_be_resolved_allow_everything() -> None:
    network = make_network(f"{__name__}:unresolved", ["price=cheap"], seed=0)
    assert isinstance(network, Recording)
    assert network.given["price"] == "cheap"


@pytest.mark.parametrize(
    ("spec", "arg", "message"),
    [
        pytest.param("resnet20", (), "does not have the form package.module:name. Write it as", id="form"),
        pytest.param("mpqtool.zoox:a", (), "Cannot import 'mpqtool.zoox' .*ModuleNotFound", id="module"),
        pytest.param(
            "mpqtool.zoo:vgg16", (), "'mpqtool.zoo' has no 'vgg16', .*: it has .*resnet20, .* Name", id="name"
        ),
        pytest.param("mpqtool.zoo:__all__", (), "is a list, and a callable is needed", id="callable"),
        pytest.param(
            "mpqtool.zoo:resnet20",
            {"depth": 3},
            r"cannot be called with \{'depth': 3\}: .* Its arguments are in_channels, classes; give",
            id="argument",
        ),
        pytest.param("mpqtool.options:parse_bits", (), "cannot be called with no arguments", id="none"),
        pytest.param("mpqtool.options:parse_bits", ["text=W4A4"], "gives a tuple, and a torch", id="type"),
        pytest.param("mpqtool.zoo:resnet20", ["classes"], "NAME=VALUE, .* got 'classes'", id="no-value"),
        pytest.param(
            "mpqtool.zoo:resnet20", ["classes=2", "classes=3"], "for each name; got 'classes=3'", id="twice"
        ),
        pytest.param(
            "mpqtool.zoo:resnet18", ["small=no"], "small must be true or false; got 'no'. Write", id="bool"
        ),
        pytest.param("mpqtool.zoo:resnet18", ["small=1"], "or false; got '1'", id="bool-integer"),
        pytest.param("mpqtool.zoo:resnet18", ["width=0.5"], "must be an integer; got '0.5'", id="integer"),
        pytest.param("mpqtool.zoo:resnet18", ["width=true"], "must be an integer; got 'true'", id="truth"),
        pytest.param("mpqtool.zoo:mobilenet_v1", ["width=a"], "must be a number; got 'a'", id="number"),
        pytest.param(
            f"{__name__}:Recording", ["size=big"], "must be an integer or none; got 'big'", id="optional"
        ),
        pytest.param("mpqtool.zoo:resnet20", ["classes=-1"], "classes must be a positive integer", id="zoo"),
        pytest.param(
            f"{__name__}:raising", ["kind=ValueError"], "raised ValueError: no luck. Give", id="raises"
        ),
    ],
)
def test_refused(spec: str, arg: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        make_network(spec, arg, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("arg", "kind"), [((), "ValueError"), (["kind=RuntimeError"], "RuntimeError")])
def test_a_factory_that_raises_for_another_reason(arg: Sequence[str], kind: str) -> None:
    with pytest.raises(ModelError, match=f"raised {kind}: no luck. Give") as caught:
        make_network(f"{__name__}:raising", arg, seed=0)
    assert "\n" not in str(caught.value)


def test_seed_decides_the_weights_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    arguments = ["in_features=2", "out_features=3", "bias=false"]
    first, again, other = (make_network("torch.nn:Linear", arguments, seed).weight for seed in (1, 1, 2))
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)
