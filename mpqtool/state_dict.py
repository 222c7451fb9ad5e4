"""Load the weights of a torch network from a file; no code in the file is run."""

from __future__ import annotations

__all__ = ["load_weights"]

import os
from collections.abc import Mapping

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import OptionError

_COUNTERS = "num_batches_tracked"  # of BatchNormalization: old files lack them, and inference needs none


def load_weights(module: nn.Module, weights: str | os.PathLike[str]) -> None:
    """Load a state dictionary into a network, all of it or nothing.

    What the network does not have, such as the state of an optimizer beside the weights, is left alone.

    Args:
        module: The network.
        weights: A ``.safetensors`` file, or what ``torch.save`` wrote.

    Raises:
        OptionError: The file cannot be read, lacks a tensor of the network, or has one of another shape.
    """
    name = os.fspath(weights)
    state = _read(name)
    own = module.state_dict()
    missing = [key for key in own if key not in state and not key.endswith(_COUNTERS)]
    if missing:
        others = f" and {len(missing) - 1} others are" if len(missing) > 1 else " is"
        raise OptionError(
            f"Weights {name!r} do not fit the network: {missing[0]!r}{others} missing; the file has "
            f"{len(state)} tensors, the network {len(own)}. Give the weights of this network."
        )
    for key, value in own.items():
        if key in state and state[key].shape != value.shape:
            raise OptionError(
                f"Weights {name!r} do not fit the network: {key!r} is {list(state[key].shape)} in the file "
                f"and {list(value.shape)} in the network. Give the weights of this network."
            )
    module.load_state_dict({key: state.get(key, value) for key, value in own.items()})


def _read(name: str) -> Mapping[str, Tensor]:
    try:
        if name.endswith(".safetensors"):
            return load_file(name)
        state: object = torch.load(name, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no weights make the readers raise almost anything
        reason = (
            getattr(error, "strerror", None) or (str(error).strip() or type(error).__name__).splitlines()[0]
        )
        raise OptionError(
            f"Cannot read weights {name!r}: {reason.rstrip('.')}. "
            "Give a .safetensors file, or a state dictionary by torch.save."
        ) from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise OptionError(
            f"Cannot use weights {name!r}: a {type(state).__name__} that is no state dictionary. "
            "Save model.state_dict() alone."
        )
    return state
