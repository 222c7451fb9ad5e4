from __future__ import annotations

import numpy as np
import pytest
from graphs import residual_cnn
from torch import fx

from mpqtool.importer import import_graph
from mpqtool.methods.budgets import Budgets, widths
from mpqtool.methods.groups import weight_groups
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.quantizers.attach import attach, weight_quantizers


def _budgets(**limits: float) -> Budgets:
    def prices(bits: dict[str, tuple[int, ...]]) -> dict[str, float]:
        return {"size": float(sum(map(sum, bits.values()))), "bitops": 100.0}

    return Budgets(limits=limits, prices=prices, free=frozenset())


@pytest.fixture
def network(rng: np.random.Generator) -> fx.GraphModule:
    model = residual_cnn(rng)
    made = attach(import_graph(model), place(model, weight_bits=4, activation_bits=8, grid=Grid.ODD))
    made.eval()
    return made


def test_only_what_is_limited_is_used(network: fx.GraphModule) -> None:
    assert _budgets(weights=3.0).used(network) == {"weights": 4.0}
    assert _budgets(bitops=3.0, weights=2.0).used(network) == {"bitops": 100.0, "weights": 4.0}


def test_a_phase_has_its_own_limits_and_half_of_the_way_to_those_of_both() -> None:
    budgets, start = _budgets(weights=3.0, activations=6.0, size=9.0, bitops=25.0), {"bitops": 100.0}
    assert budgets.of_phase("weights", start, halfway=True) == {"weights": 3, "size": 9, "bitops": 50}
    assert budgets.of_phase("activations", start, halfway=False) == {"activations": 6, "bitops": 25}
    assert budgets.of_both == {"bitops": 25}
    assert _budgets(bitops=200.0).of_phase("weights", start, halfway=True) == {"bitops": 200}


def test_no_more_groups_than_the_limits_ask_for(network: fx.GraphModule) -> None:
    quantizers = weight_quantizers(network)
    groups = weight_groups(quantizers, "kernel")  # type: ignore[arg-type]
    before, start = widths(network), sum(map(sum, widths(network).values()))
    for wanted in (0, 1, 7, len(groups)):
        budgets = _budgets(size=start - wanted)
        assert budgets.enough(groups, budgets.limits, network) == wanted
    beyond = _budgets(size=1.0)
    assert beyond.enough(groups, beyond.limits, network) == len(groups)
    assert widths(network) == before
    both = _budgets(size=start - 2, weights=3.5)
    count = both.enough(groups, both.limits, network)
    assert count > 2
    for group in groups[:count]:
        group.take_a_bit()
    assert both.are_met(both.limits, network)
    groups[count - 1].members[0].bits[groups[count - 1].kernel] += 1
    assert not both.are_met(both.limits, network)


def test_the_last_word_has_what_is_closest_to_its_limit() -> None:
    budgets, start = _budgets(weights=3.0, size=100.0), {"weights": 4.0, "size": 200.0}
    assert budgets.binding({"weights": 2.9, "size": 99.0}, start) == "size"
    assert budgets.binding({"weights": 3.3, "size": 99.0}, start) == "weights"
    assert budgets.binding({"weights": 2.9, "size": 99.0}, start | {"size": 99.0}) == "weights"
    assert budgets.binding({"weights": 2.9, "size": 99.0}, {"weights": 3.0, "size": 99.0}) is None
