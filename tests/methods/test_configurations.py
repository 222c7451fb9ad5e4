from __future__ import annotations

import numpy as np
import pytest
from graphs import normal

from mpqtool.importer import import_graph
from mpqtool.methods.configurations import attach_lsq, configurations, with_zero_points
from mpqtool.passes.plan import ActivationQuant, Grid, Plan, WeightQuant
from mpqtool.passes.roles import Role
from mpqtool.quantizers import ActivationQuantizer, LsqWeightQuantizer, OffsetQuantizer
from mpqtool.quantizers.attach import activation_quantizers, weight_quantizers

ROLES = {"relu": Role.NONNEGATIVE, "swish": Role.SKEWED, "linear": Role.SIGNED}


@pytest.mark.parametrize(
    ("config", "offsets", "expected"),
    [
        pytest.param("auto", True, (1, 4, 2), id="auto"),
        pytest.param("auto", False, (1, 1, 2), id="auto-without-offsets"),
        pytest.param("1", True, (1, 1, 2), id="1"),
        pytest.param("2", False, (2, 2, 2), id="2"),
        pytest.param("3", True, (3, 3, 2), id="3"),
        pytest.param("4", True, (4, 4, 2), id="4"),
    ],
)
def test_roles_have_configurations(config: str, offsets: bool, expected: tuple[int, ...]) -> None:
    assert configurations(ROLES, config, offsets=offsets) == dict(zip(ROLES, expected, strict=True))


def _plan(bits: int = 4) -> Plan:
    names = ("x", "one", "two", "three", "four")
    return Plan(
        weights=(WeightQuant(name="w", bits=(3, 3, 3), grid=Grid.FULL),),
        activations=tuple(ActivationQuant(name=name, bits=bits) for name in names),
    )


CONFIGS = {"one": 1, "two": 2, "three": 3, "four": 4}


def test_configurations_without_an_offset_have_a_zero_point() -> None:
    zero_points = {a.name: a.zero_point for a in with_zero_points(_plan(), CONFIGS).activations}
    assert zero_points == {"x": None, "one": 0, "two": 8, "three": None, "four": None}
    assert with_zero_points(_plan(), {}) == _plan()


@pytest.mark.parametrize("per_kernel", [True, False])
@pytest.mark.parametrize("learned_offset", [True, False])
def test_quantizers_are_those_of_table_1(
    rng: np.random.Generator, per_kernel: bool, learned_offset: bool
) -> None:
    model = normal(
        """
        net (float[N, 2, 4, 4] x) => (float[N, 3, 4, 4] four) {
            one = Conv (x, w)
            two = HardSwish (one)
            three = HardSwish (two)
            four = HardSwish (three)
        }
        """,
        {"w": rng.normal(size=(3, 2, 1, 1))},
    )
    network = attach_lsq(
        import_graph(model), _plan(), CONFIGS, per_kernel=per_kernel, learned_offset=learned_offset
    )

    (weight,) = weight_quantizers(network)
    assert isinstance(weight, LsqWeightQuantizer)
    assert (weight.low, weight.high, len(weight.scale), weight.elements) == (-4, 3, 3 if per_kernel else 1, 2)
    x, one, two, three, four = activation_quantizers(network)
    assert all(isinstance(q, ActivationQuantizer) for q in (x, one, two))
    assert [int(q.zero_point) for q in (x, one, two)] == [-1, 0, 8]  # -1: to be calibrated
    for quantizer, ends in ((three, (-8, 7)), (four, (0, 15))):
        assert isinstance(quantizer, OffsetQuantizer)
        assert (quantizer.low, quantizer.high) == ends
        assert quantizer.beta.requires_grad is learned_offset
