"""Load the weights of a torch network from a file; no code in the file is run."""

from __future__ import annotations

__all__ = ["load_weights"]

import logging
import os
import zipfile
from collections.abc import Mapping

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import DataError

logger = logging.getLogger(__name__)

_COUNTERS = "num_batches_tracked"  # of BatchNormalization: old files lack them, and inference needs none
_WRAPPED = "module."  # what DataParallel puts before every name


def load_weights(module: nn.Module, weights: str | os.PathLike[str]) -> None:
    """Load a state dictionary into a network, all of it or nothing.

    What the network does not have is left alone, and named in a warning. So is the ``module.`` of
    DataParallel, which is taken off where every name has it.

    Args:
        module: The network.
        weights: A ``.safetensors`` file, or what ``torch.save`` wrote.

    Raises:
        DataError: The file cannot be read, lacks a tensor of the network, or has one of another shape or
            with numbers that are NaN or infinite.
    """
    name = os.fspath(weights)
    own = module.state_dict()
    state = _unwrapped(name, _read(name), own)
    missing = [key for key in own if key not in state and not key.endswith(_COUNTERS)]
    if missing:
        others = f" and {len(missing) - 1} others are" if len(missing) > 1 else " is"
        found = f", the first of them {next(iter(state))!r}" if state else ""
        raise DataError(
            f"Weights {name!r} do not fit the network: {missing[0]!r}{others} missing; the file has "
            f"{len(state)} tensors{found}, the network {len(own)}. Give the weights of this network."
        )
    for key, value in own.items():
        if key in state:
            _check(name, key, state[key], value)
    extra = [key for key in state if key not in own]
    if extra:
        logger.warning(
            "weights %r: left alone what the network does not have: %r%s",
            name,
            extra[0],
            f" and {len(extra) - 1} more" if len(extra) > 1 else "",
        )
    module.load_state_dict({key: state.get(key, value) for key, value in own.items()})


def _unwrapped(name: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    wrapped = all(key.startswith(_WRAPPED) for key in state)
    if not state or not wrapped or any(key.startswith(_WRAPPED) for key in own):
        return state
    logger.warning("weights %r: every name begins with %r, as DataParallel has it; taken off", name, _WRAPPED)
    return {key.removeprefix(_WRAPPED): value for key, value in state.items()}


def _check(name: str, key: str, found: Tensor, own: Tensor) -> None:
    if found.shape != own.shape:
        raise DataError(
            f"Weights {name!r} do not fit the network: {key!r} is {list(found.shape)} in the file "
            f"and {list(own.shape)} in the network. Give the weights of this network."
        )
    wrong = int((~torch.isfinite(found.float())).sum()) if found.is_floating_point() else 0
    if wrong:
        raise DataError(
            f"Cannot use weights {name!r}: {wrong} of the {found.numel()} numbers of {key!r} are NaN or "
            "infinite. Train the network anew, or give weights from before it diverged."
        )


def _read(name: str) -> Mapping[str, Tensor]:
    try:
        with open(name, "rb"):
            pass  # whatever is wrong here, the system says it better than the readers
        if name.endswith(".safetensors"):
            return load_file(name)
        state: object = torch.load(name, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no weights make the readers raise almost anything
        raise DataError(
            f"Cannot read weights {name!r}: {_reason(name, error)}. "
            "Give a .safetensors file, or what torch.save(network.state_dict(), FILE) writes."
        ) from None
    tensors = isinstance(state, Mapping) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    )
    if not tensors:
        raise DataError(
            f"Cannot use weights {name!r}: a {type(state).__name__} that is no state dictionary. "
            "Save network.state_dict() alone."
        )
    return state  # type: ignore[return-value]


def _reason(name: str, error: Exception) -> str:
    """Why a file cannot be read; what the readers say of their own is about their insides."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if name.endswith(".safetensors"):
        return "it is not a safetensors file"
    if zipfile.is_zipfile(name):
        return "it holds something else than tensors, such as a whole network or numpy arrays"
    return "it is not a file of torch.save"
