"""Which layers come back from float."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
from graphs import residual_cnn

from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid, Plan
from mpqtool.passes.planned_cost import layer_tensors
from mpqtool.prices import make_plan_prices
from mpqtool.run_mixed import _put_back


class _Trials:
    """The floor holds where these tensors are float, whatever else is."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.job: Any = types.SimpleNamespace(folded=residual_cnn(rng))
        self.plan = place(self.job.folded, weight_bits=8, activation_bits=8, grid=Grid.FULL)
        self.costs = make_plan_prices(self.job.folded, self.plan, {})
        self.layers = [set(pair) for pair in layer_tensors(self.job.folded, self.plan)]
        self.needed = self.layers[1] - self.layers[0]
        self.tried: list[set[str]] = []

    def without(self, names: set[str]) -> Any:
        return types.SimpleNamespace(plan=self.plan.without(dict.fromkeys(names, "noise")))

    def __call__(self, plan: Plan) -> Any:
        self.tried.append(set(plan.left_float))
        return types.SimpleNamespace(plan=plan)

    def holds(self, trial: Any) -> bool:
        return self.needed <= trial.plan.left_float.keys()


def test_layers_that_need_not_be_float_come_back(rng: np.random.Generator) -> None:
    trials: Any = _Trials(rng)
    left = set[str]().union(*trials.layers)
    found = _put_back(trials, trials.plan, trials.without(left), {frozenset()})
    assert trials.holds(found)
    assert trials.needed <= found.plan.left_float.keys() < left
    saved = trials.costs(trials.without(left).plan)["bitops"] - trials.costs(found.plan)["bitops"]
    assert saved > 0.3 * trials.costs(trials.plan)["bitops"]


def test_what_was_not_enough_is_not_tried_again(rng: np.random.Generator) -> None:
    trials: Any = _Trials(rng)
    rest = trials.needed | (trials.layers[-1] - trials.layers[1])
    known = {frozenset(rest - layer) for layer in trials.layers}
    found = _put_back(trials, trials.plan, trials.without(rest), known)
    assert not trials.tried
    assert set(found.plan.left_float) == rest
