"""Our integer files beside the best that onnxruntime's quant_pre_process and quantize_static make.

    python -P benchmarks/against_static.py resnet20 [--float model.onnx --ours model.int.onnx] [--batch 1]
    python -P benchmarks/against_static.py resnet18
    python -P benchmarks/against_static.py file --float model.onnx --size 1,3,48,192

One process, one thread, files in turn. Both start from the same float file, and both get the same few inputs
to calibrate on, which are noise: this compares times, not accuracy. quantize_static writes QDQ and QOperator
files, uint8 activations, int8 weights per channel: their sums can saturate on a CPU without VNNI, which makes
them no slower. Ours have 4-bit weights, and activations of 8 or 6 bits.
``fastest`` is what ``mpqtool lower --lower fastest`` makes.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import pathlib
import tempfile
import warnings
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import mpqtool
from mpqtool.importer import import_graph
from mpqtool.passes import pipelines
from mpqtool.passes.load import load_model, save_model
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.passes.quantize import raise_dead_scales
from mpqtool.quantizers.attach import activation_quantizers, attach, read_plan, weight_quantizers
from mpqtool.quantizers.calibrate import calibrate
from mpqtool.runtime.feeds import shapes
from mpqtool.runtime.interleaved import interleaved, table
from mpqtool.runtime.session import make_session

_CALIBRATION = 2


class _Noise(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, inputs: list[dict[str, np.ndarray]]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._inputs, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=("resnet20", "resnet18", "file"))
    parser.add_argument("--float", type=pathlib.Path, help="float file, in place of random weights")
    parser.add_argument("--ours", type=pathlib.Path, nargs="*", default=[], help="files to time as well")
    parser.add_argument("--size", help="shape of the input, if the file leaves more open than the batch")
    parser.add_argument("--batch", type=int, nargs="*", default=[1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    logging.disable(logging.WARNING)  # quantize_static advises to pre-process what is pre-processed
    warnings.simplefilter("ignore")
    given = tuple(map(int, arguments.size.split(","))) if arguments.size else None

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        source = arguments.float or _exported(arguments.network, folder)
        normal = pipelines.normalize(load_model(source), fold_batch_norm=True)
        save_model(normal, folder / "float.onnx")
        files = {source.name: source, "float, normal form": folder / "float.onnx"}
        (x,) = normal.graph.inputs
        sizes = {str(x.name): given} if given else {}
        shape = shapes(normal, str(source), batch=1, sizes=sizes)[str(x.name)][1]
        rng = np.random.default_rng(0)
        inputs = [{str(x.name): rng.standard_normal(shape, np.float32)} for _ in range(_CALIBRATION)]
        files |= _static(folder, inputs)
        for bits in (8, 6):
            files |= _ours(normal, folder, inputs, bits, sizes, arguments.threads)
        files |= {path.name: path for path in arguments.ours}
        for batch in arguments.batch:
            feed = np.concatenate([inputs[0][str(x.name)]] * batch)
            things = {label: _run(path, feed, arguments.threads) for label, path in files.items()}
            print(f"batch {batch}, {list(feed.shape)}, {arguments.threads} thread(s)")
            print(table(interleaved(things, rounds=arguments.rounds), reference="float, normal form"))


def _exported(network: str, folder: pathlib.Path) -> pathlib.Path:
    path = folder / f"{network}.onnx"
    shape = (1, 28, 28) if network == "resnet20" else (3, 224, 224)
    arguments = {"in_channels": shape[0]}
    return mpqtool.export_onnx(f"mpqtool.zoo:{network}", path, input_shape=shape, arg=arguments)


def _run(path: pathlib.Path, feed: np.ndarray, threads: int) -> Callable[[], object]:
    session = make_session(path, threads=threads)
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: feed})


def _static(folder: pathlib.Path, inputs: list[dict[str, np.ndarray]]) -> dict[str, pathlib.Path]:
    prepared, files = folder / "prepared.onnx", {}
    with contextlib.chdir(folder):  # where its symbolic shape inference gives up, it leaves files behind
        try:
            quant_pre_process(folder / "float.onnx", prepared)
        except Exception:  # which it does on some graphs, with a bare Exception
            quant_pre_process(folder / "float.onnx", prepared, skip_symbolic_shape=True)
    for form in (QuantFormat.QDQ, QuantFormat.QOperator):
        path = folder / f"static_{form.name}.onnx"
        quantize_static(
            prepared, path, _Noise(inputs), quant_format=form, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        files[f"quantize_static {form.name}"] = path
    return files


def _ours(
    model: ir.Model, folder: pathlib.Path, inputs: list[dict[str, np.ndarray]],
    bits: int, sizes: dict[str, tuple[int, ...]], threads: int,
) -> dict[str, pathlib.Path]:  # fmt: skip
    plan = place(model, weight_bits=4, activation_bits=bits, grid=Grid.ODD)
    network = attach(import_graph(model), plan)
    parameters = dict(network.named_parameters())
    for quantizer in weight_quantizers(network):
        quantizer.fit(parameters[quantizer.name])
    with torch.no_grad():
        columns = [[torch.from_numpy(array) for array in feeds.values()] for feeds in inputs]
        calibrate(network, [tuple(column) for column in columns], activation_quantizers(network))
    qdq = folder / f"W4A{bits}.qdq.onnx"
    save_model(pipelines.quantize(model, raise_dead_scales(model, read_plan(network))), qdq)
    files = {}
    for lower in ("full", "fastest"):
        path = folder / f"W4A{bits}.{lower}.onnx"
        measured = {"sizes": sizes, "threads": threads} if lower == "fastest" else {}
        mpqtool.lower(qdq, path, lower=lower, **measured)
        files[f"W4A{bits} {lower}"] = path
    return files


if __name__ == "__main__":
    main()
