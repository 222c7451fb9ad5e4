"""How the training steps: recipe, optimizer, learning rate, and the optimizer's tensors in checkpoints."""

from __future__ import annotations

__all__ = ["Recipe", "learning_rates", "make_optimizer", "optimizer_tensors", "restore_optimizer"]

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from .checkpoint import tensors_under
from .quantizers import PactQuantizer

_MOMENTUM, _WARMUP = 0.9, 0.1
_SLOTS, _SCALER = "optimizer/", "scaler/"
_SCALER_STATE = {"scale": float, "_growth_tracker": int}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained, apart from how long and how fast.

    Attributes:
        optimizer: ``sgd`` (Nesterov momentum 0.9) or ``adamw`` (its defaults in torch).
        weight_decay: Of matrices, kernels and the clips of PACT (Choi et al., PACT, section 3.1), never of
            scales, offsets, biases or normalization, nor of other vectors, with axes of length 1 or without.
        accumulate: Batches whose mean gradient makes one step of the optimizer.
        mixed_precision: ``no``, ``bf16`` or ``fp16``: what layers multiply in while training.
    """

    optimizer: str = "sgd"
    weight_decay: float = 5e-4
    accumulate: int = 1
    mixed_precision: str = "no"


def make_optimizer(module: nn.Module, lr: float, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer of a recipe over all parameters that require a gradient."""
    clips = {id(m.alpha) for m in module.modules() if isinstance(m, PactQuantizer)}
    decayed, others = list[Tensor](), list[Tensor]()
    for parameter in module.parameters():
        if parameter.requires_grad:
            decays = id(parameter) in clips or not _is_vector(parameter)
            (decayed if decays else others).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr, momentum=_MOMENTUM, nesterov=True)
    raise ValueError(f"optimizer is {recipe.optimizer!r}; sgd and adamw are allowed")


def _is_vector(parameter: Tensor) -> bool:
    """Whether it is a bias, a slope or the like, ``(channels, 1, 1)`` too."""
    return sum(size > 1 for size in parameter.shape) <= 1


def learning_rates(peak: float, steps: int, span: tuple[float, float]) -> list[float]:
    """The learning rate of each of ``steps`` steps, which go through one part of the schedule.

    Args:
        peak: The largest learning rate of the whole schedule.
        steps: Steps of the optimizer.
        span: Where the part begins and ends, as shares of the whole, 0 to 1.
    """
    begin, end = span
    return [peak * _schedule(begin + (end - begin) * step / steps) for step in range(steps)]


def _schedule(done: float) -> float:
    """Share of the peak learning rate at ``done`` in [0, 1): linear warm-up, then half a cosine."""
    if done < _WARMUP:
        return (done + 0.01) / (_WARMUP + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (done - _WARMUP) / (1 - _WARMUP)))


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, module: nn.Module, scaler: GradScaler
) -> dict[str, Tensor]:
    """All that the next step depends on beside the network: ``optimizer/<slot>/<parameter>``.

    Slots are those of torch: ``momentum_buffer`` of SGD; ``step``, ``exp_avg`` and ``exp_avg_sq`` of AdamW.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    tensors = {
        f"{_SLOTS}{slot}/{names[id(parameter)]}": value
        for parameter, slots in optimizer.state.items()
        for slot, value in slots.items()
        if value is not None
    }
    if scaler.is_enabled():
        held = scaler.state_dict()
        tensors |= {f"{_SCALER}{key}": torch.tensor(held[key], dtype=torch.float64) for key in _SCALER_STATE}
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer, module: nn.Module, scaler: GradScaler, tensors: dict[str, Tensor]
) -> None:
    """Take over what ``optimizer_tensors`` gave, among other tensors."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    index = {names[id(parameter)]: i for i, parameter in enumerate(parameters)}
    state = optimizer.state_dict()
    for key, tensor in tensors_under(_SLOTS, tensors).items():
        slot, _, name = key.partition("/")
        state["state"].setdefault(index[name], {})[slot] = tensor.clone()
    optimizer.load_state_dict(state)  # it knows which tensors belong on the device of their parameter
    if scaler.is_enabled():
        held = tensors_under(_SCALER, tensors)
        saved = {key: kind(held[key].item()) for key, kind in _SCALER_STATE.items()}
        scaler.load_state_dict(scaler.state_dict() | saved)
