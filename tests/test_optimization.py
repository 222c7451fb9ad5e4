from __future__ import annotations

import pytest
import torch
from torch import nn

from mpqtool.optimization import (
    Recipe,
    learning_rates,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
)


def _module() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 2))
    module[2].bias.requires_grad_(False)
    module.register_parameter("scale", nn.Parameter(torch.tensor(0.5)))
    return module


def test_vectors_with_axes_of_length_1_do_not_decay() -> None:
    module = nn.Module()
    for name, shape in {"shift": (1, 8, 1, 1), "slope": (8, 1, 1), "kernels": (8, 4, 1, 1)}.items():
        module.register_parameter(name, nn.Parameter(torch.zeros(shape)))
    decaying, others = make_optimizer(module, 0.1, Recipe(weight_decay=0.25)).param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.25, 0)
    assert [p.shape for p in decaying["params"]] == [(8, 4, 1, 1)]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_only_matrices_and_kernels_decay(name: str) -> None:
    module = _module()
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    optimizer = make_optimizer(module, 0.1, Recipe(optimizer=name, weight_decay=0.25))
    decay = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {
        "0.weight": 0.25, "2.weight": 0.25, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "scale": 0.0,
    }  # fmt: skip  # the frozen bias is not there


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="'adam'; sgd and adamw are allowed"):
        make_optimizer(_module(), 0.1, Recipe(optimizer="adam"))


def test_warms_up_then_falls_to_nearly_zero() -> None:
    rates = learning_rates(2.0, 100, (0.0, 1.0))
    assert rates[:11] == sorted(rates[:11])
    assert rates[10] == 2.0  # the peak, at a tenth of the way
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 1e-3 * 2.0


def test_two_spans_are_one_schedule() -> None:
    parts = learning_rates(0.3, 16, (0.0, 0.8)) + learning_rates(0.3, 4, (0.8, 1.0))
    assert parts == pytest.approx(learning_rates(0.3, 20, (0.0, 1.0)), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "slots"),
    [("sgd", {"momentum_buffer"}), ("adamw", {"step", "exp_avg", "exp_avg_sq"})],
)
def test_slots_are_held_by_parameter_name(name: str, slots: set[str]) -> None:
    modules, recipe = [_module(), _module()], Recipe(optimizer=name)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    optimizers = [make_optimizer(module, 0.1, recipe) for module in modules]
    for parameter in modules[0].parameters():
        parameter.grad = torch.ones_like(parameter)
    modules[0][0].weight.grad = None  # a parameter that no loss depends on has no slots
    optimizers[0].step()
    tensors = optimizer_tensors(optimizers[0], modules[0], scaler)
    trained = {"0.bias", "1.weight", "1.bias", "2.weight", "scale"}
    assert set(tensors) == {f"optimizer/{slot}/{parameter}" for slot in slots for parameter in trained}

    restore_optimizer(optimizers[1], modules[1], scaler, tensors | {"network/0.bias": torch.zeros(3)})

    again = optimizer_tensors(optimizers[1], modules[1], scaler)
    assert all(torch.equal(tensors[key], again[key]) for key in tensors | again)


def test_the_scaler_goes_on_where_it_was() -> None:
    module = _module()
    optimizer = make_optimizer(module, 0.1, Recipe())
    scaler, fresh = torch.amp.GradScaler("cpu", init_scale=8.0), torch.amp.GradScaler("cpu")
    scaler.load_state_dict(scaler.state_dict() | {"_growth_tracker": 7})
    tensors = optimizer_tensors(optimizer, module, scaler)
    restore_optimizer(optimizer, module, fresh, tensors)
    assert fresh.state_dict() == scaler.state_dict()
