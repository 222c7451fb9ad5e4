"""Runs of ``mpqtool.quantize``, kept in directories: a benchmark goes on where it was killed."""

from __future__ import annotations

__all__ = ["fewer", "find", "float_network", "make"]

import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import nn

import mpqtool
from mpqtool import rundir
from mpqtool.data import Split, load_data
from mpqtool.reporter import Reporter

from .float_training import trained


def float_network(
    path: pathlib.Path,
    make_module: Callable[[], nn.Module],
    read_split: Callable[[], Split],
    *,
    epochs: int,
    label: str,
) -> pathlib.Path:
    """The float network as an ONNX file; trained on the split where it is not there yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        split = read_split()
        (images,) = split.inputs.values()
        module = trained(
            make_module, split, epochs=epochs, samples=len(split), reporter=Reporter(), label=label
        )
        mpqtool.export_onnx(module, path, input_shape=images.shape[1:])
    return path


def find(out: pathlib.Path, float_file: pathlib.Path, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """What ``result.json`` of a run says; None: it is yet to be made, or was made with other options.

    A run of other code counts, if its options and its float network are the same: delete it after a change
    of the code.
    """
    path = out / rundir.RESULT
    if not path.exists() or not float_file.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text())
    settings = {"seed": result["seed"]} | result["settings"]
    if any(settings.get(name.rstrip("_")) != value for name, value in options.items()):
        return None
    return result if result["model"]["sha256"] == _digest(float_file) else None


def make(
    out: pathlib.Path, float_file: pathlib.Path, spec: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Make a run, or go on with one that was killed."""
    begun = (out / rundir.CHECKPOINT).exists() and not (out / rundir.RESULT).exists()
    return mpqtool.quantize(
        float_file, data=spec, out=out, resume=begun, reporter=Reporter(silent=True), **options
    ).result


def fewer(spec: str, images: tuple[int, int], path: pathlib.Path) -> str:
    """The first images of both splits, in a file of their own."""
    found, arrays = load_data(spec), {}
    for split, count, suffix in ((found.train, images[0], ""), (found.test, images[1], "_test")):
        (x,) = split.inputs.values()
        assert split.labels is not None
        arrays |= {f"x{suffix}": x[:count], f"label{suffix}": split.labels[:count]}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return str(path)


@functools.cache
def _digest(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
