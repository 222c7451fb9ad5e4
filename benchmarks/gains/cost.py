"""Time and memory of the sensitivities of all kernels, against training on the same images."""

from __future__ import annotations

__all__ = ["SUMS", "peaks", "times"]

import functools
import multiprocessing
import pathlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import torch
from torch import Tensor, fx, nn

from mpqtool.importer import import_graph
from mpqtool.methods.noise_gain import noise_gains
from mpqtool.passes import pipelines
from mpqtool.passes.load import load_model
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.quantizers import ActivationQuantizer
from mpqtool.quantizers.attach import activation_quantizers, attach, weight_quantizers
from mpqtool.quantizers.calibrate import calibrate
from mpqtool.runtime.interleaved import interleaved

SUMS = ("signs", "runner-up", "ranks")
_IMAGES, _BATCH = 512, 128


def _images() -> Tensor:
    return torch.rand(_IMAGES, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def _quantized(path: pathlib.Path) -> fx.GraphModule:
    """As IMPQ starts: weights at 4 bits, activations at 8."""
    loaded = load_model(path)
    folded = pipelines.normalize(loaded, fold_batch_norm=True)
    plan = place(folded, weight_bits=4, activation_bits=8, grid=Grid.ODD)
    network = attach(import_graph(pipelines.normalize(loaded)), plan)
    parameters = dict(network.named_parameters())
    for quantizer in weight_quantizers(network):
        quantizer.fit(parameters[quantizer.name])
    values = [q for q in activation_quantizers(network) if isinstance(q, ActivationQuantizer)]
    calibrate(network, [(_images()[:16],)], values)
    return network


def _train(network: nn.Module, images: Sequence[Tensor]) -> None:
    """A plain forward and backward pass over some images."""
    network.train()
    for x in images:
        nn.functional.cross_entropy(network(x)[0], torch.zeros(len(x), dtype=torch.long)).backward()
        network.zero_grad()


def times(path: pathlib.Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of sensitivities of all kernels, by way of summing, and of ``forward+backward``."""
    images, network = _images(), _quantized(path)
    plain = import_graph(pipelines.normalize(load_model(path)))
    things: dict[str, Callable[[], object]] = {
        "forward+backward": functools.partial(_train, plain, images.split(_BATCH))
    }
    for sums in SUMS:
        things[sums] = functools.partial(noise_gains, network, [(images,)], sums=sums)
    return interleaved(things, rounds=rounds)


def peaks(path: pathlib.Path) -> dict[str, float]:
    """Megabytes that each takes at its peak beyond what the process had before: in processes of their own."""
    context = multiprocessing.get_context("spawn")
    found = {}
    for name in ("training step", *SUMS):
        with ProcessPoolExecutor(1, context) as pool:
            found[name] = pool.submit(_peak, name, path, torch.get_num_threads()).result()
    return found


def _peak(name: str, path: pathlib.Path, threads: int) -> float:
    torch.set_num_threads(threads)
    images = _images()
    if name == "training step":
        network = import_graph(pipelines.normalize(load_model(path)))
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-9, momentum=0.9)

        def work(x: Tensor) -> None:
            network.train()
            nn.functional.cross_entropy(network(x)[0], torch.zeros(len(x), dtype=torch.long)).backward()
            optimizer.step()

        once = images[:_BATCH]
    else:
        quantized, once = _quantized(path), images

        def work(x: Tensor) -> None:
            noise_gains(quantized, [(x,)], sums=name)

    work(images[:2])  # what libraries keep for good
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, at what is resident now
    before = _resident("VmRSS")
    work(once)
    return _resident("VmHWM") - before


def _resident(which: str) -> float:
    """Megabytes of this process in memory, now (``VmRSS``) or at its peak (``VmHWM``); Linux."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    kibibytes = next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:"))
    return kibibytes * 1024 / 1e6
