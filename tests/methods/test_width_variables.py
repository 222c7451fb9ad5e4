from __future__ import annotations

from collections.abc import Sequence

import pytest
from torch import fx, nn

from mpqtool.hardware import LayerCost
from mpqtool.methods.width_variables import Hardware, grouped
from mpqtool.quantizers import ActivationQuantizer, DorefaWeightQuantizer, Gain, PactQuantizer

COSTS = (
    LayerCost("first", "image", 0.3),  # an input of fixed 8 bits
    LayerCost("middle", "a", 0.2),
    LayerCost("middle", "b", 0.1),  # a weight that two nodes use
    LayerCost("side", "a", 0.15),
    LayerCost("loose", None, 0.25),  # multiplied with float values
)


def _weight(name: str, bits: tuple[int, ...], elements: int = 5) -> DorefaWeightQuantizer:
    return DorefaWeightQuantizer(name, bits, elements=elements, gain=Gain.ONE)


def _network(weights: int = 8, activations: int = 8) -> fx.GraphModule:
    root = nn.Module()
    for name, kernels in {"first": 3, "middle": 2, "side": 4, "loose": 1, "last": 2}.items():
        root.add_module(name, _weight(name, (weights,) * kernels))
    for name in ("a", "b"):
        quantizer = PactQuantizer(name, activations)
        quantizer.elements = {"a": 100, "b": 7}[name]
        root.add_module(name, quantizer)
    root.add_module("image", ActivationQuantizer("image", 8, zero_point=None, nonnegative=True))
    return _traced(root)


def _traced(root: nn.Module) -> fx.GraphModule:
    """A graph that has the modules of ``root``; none of them is called here."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    for name, _ in root.named_children():
        graph.call_module(name, (x,))
    graph.output(x)
    return fx.GraphModule(root, graph)


@pytest.mark.parametrize(("weights", "activations"), [(8, 8), (3, 5), (1, 2)])
def test_uniform_widths_cost_their_product(weights: int, activations: int) -> None:
    uniform = [LayerCost(c.weight, "a" if c.input in (None, "image") else c.input, c.share) for c in COSTS]
    hardware = Hardware(uniform, _network(weights, activations))
    assert hardware.value() == pytest.approx(weights * activations)
    for kind, granularity in (("weights", "network"), ("weights", "layer"), ("weights", "kernel")):
        for variable in grouped(kind, hardware.learned()[0], granularity):  # type: ignore[arg-type]
            assert hardware.slope(variable) == pytest.approx(activations)
    for granularity in ("network", "layer"):
        for variable in grouped("activations", hardware.learned()[1], granularity):
            assert hardware.slope(variable) == pytest.approx(weights)


def test_fixed_and_float_inputs_count_with_their_bits() -> None:
    hardware = Hardware(COSTS, _network(weights=3, activations=5))
    assert hardware.value() == pytest.approx(0.3 * 3 * 8 + 0.45 * 3 * 5 + 0.25 * 3 * 32)
    first, middle, side, loose = grouped("weights", hardware.learned()[0], "layer")
    assert [v.name for v in (first, middle, side, loose)] == ["first", "middle", "side", "loose"]
    assert [hardware.slope(v) for v in (first, middle, side, loose)] == pytest.approx([8, 5, 5, 32])
    (network,) = grouped("weights", hardware.learned()[0], "network")
    assert hardware.slope(network) == pytest.approx(0.3 * 8 + 0.45 * 5 + 0.25 * 32)


def test_slopes_are_derivatives() -> None:
    network = _network(weights=3, activations=5)
    hardware = Hardware(COSTS, network)
    weights, activations = hardware.learned()
    found = [
        *(v for g in ("network", "layer", "kernel") for v in grouped("weights", weights, g)),
        *(v for g in ("network", "layer") for v in grouped("activations", activations, g)),
    ]
    assert len(found) == 1 + 4 + 10 + 1 + 2
    for variable in found:
        before = hardware.value()
        variable.use(variable.bits + 1)
        gained = hardware.value() - before
        variable.use(variable.bits - 1)
        assert gained == pytest.approx(hardware.share(variable) * hardware.slope(variable)), variable.name


def test_shares_add_up() -> None:
    hardware = Hardware(COSTS, _network())
    weights, activations = hardware.learned()

    def shares(kind: str, granularity: str) -> dict[str, float]:
        members = weights if kind == "weights" else activations
        return {v.name: hardware.share(v) for v in grouped(kind, members, granularity)}  # type: ignore[arg-type]

    assert shares("weights", "network") == {"weights": pytest.approx(1)}
    assert shares("weights", "layer") == pytest.approx(
        {"first": 0.3, "middle": 0.3, "side": 0.15, "loose": 0.25}
    )
    by_kernel = shares("weights", "kernel")
    assert sum(by_kernel.values()) == pytest.approx(1)
    assert by_kernel["side[3]"] == pytest.approx(0.15 / 4)
    # Those of fixed and of float inputs are in no activation's width.
    assert shares("activations", "network") == {"activations": pytest.approx(0.45)}
    assert shares("activations", "layer") == pytest.approx({"a": 0.35, "b": 0.1})


def test_what_is_not_in_the_term_is_not_learned() -> None:
    weights, activations = Hardware(COSTS, _network()).learned()
    assert [q.name for q in weights] == ["first", "middle", "side", "loose"]  # each once, and not "last"
    assert [q.name for q in activations] == ["a", "b"]


def test_kernels_of_no_bits_cost_nothing_and_stay_so() -> None:
    network = _network(weights=4, activations=2)
    network.get_submodule("middle").bits[1] = 0
    hardware = Hardware([LayerCost("middle", "a", 1.0)], network)
    assert hardware.value() == pytest.approx(2 * 2)  # half of the kernels
    (layer,) = grouped("weights", hardware.learned()[0], "layer")
    layer.use(3)
    assert network.get_submodule("middle").bits.tolist() == [3, 0]
    assert [v.name for v in grouped("weights", hardware.learned()[0], "kernel")] == ["middle[0]"]


def test_variables_have_members_bits_and_elements() -> None:
    members = [_weight("v", (4, 0, 4), elements=10), _weight("w", (4, 4), elements=3)]
    (network,) = grouped("weights", members, "network")
    assert (network.name, network.bits, network.elements) == ("weights", 4, 36)
    network.use(2)
    assert [m.bits.tolist() for m in members] == [[2, 0, 2], [2, 2]]
    first, second = grouped("weights", members, "layer")
    first.use(5)
    assert [m.bits.tolist() for m in members] == [[5, 0, 5], [2, 2]]
    assert [(v.name, v.bits, v.elements) for v in (first, second)] == [("v", 5, 30), ("w", 2, 6)]
    kernels = grouped("weights", members, "kernel")
    assert [(v.name, v.bits, v.elements) for v in kernels] == [
        ("v[0]", 5, 10), ("v[2]", 5, 10), ("w[0]", 2, 3), ("w[1]", 2, 3),
    ]  # fmt: skip
    kernels[1].use(1)
    assert [m.bits.tolist() for m in members] == [[5, 0, 1], [2, 2]]
    assert grouped("activations", [], "network") == []
    values: Sequence[PactQuantizer] = [PactQuantizer("a", 6), PactQuantizer("b", 4)]
    values[0].elements, values[1].elements = 100, 7
    (both,) = grouped("activations", values, "network")
    assert (both.name, both.bits, both.elements) == ("activations", 6, 107)
    both.use(3)
    assert [int(q.bits) for q in values] == [3, 3]
