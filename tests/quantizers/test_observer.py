from __future__ import annotations

import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from mpqtool.quantizers.observer import SAMPLES_PER_VALUE, Histogram, Observer, Reservoir


def _cut(x: torch.Tensor, rng: np.random.Generator, parts: int) -> tuple[torch.Tensor, ...]:
    return x.tensor_split(np.sort(rng.integers(0, len(x) + 1, parts - 1)).tolist())


def test_a_short_stream_is_kept_whole_and_in_order() -> None:
    reservoir = Reservoir(100)
    for part in torch.arange(100.0).split(7):
        reservoir.add(part)

    np.testing.assert_array_equal(reservoir.sample, np.arange(100))


def test_batches_of_any_size_give_the_same(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=60_000).astype(np.float32) * np.linspace(0, 50, 60_000, dtype="f"))
    whole, cut = Observer(histogram=True), Observer(histogram=True)

    whole.add(x)
    for part in _cut(x, rng, 90):
        cut.add(part)

    np.testing.assert_array_equal(cut.reservoir.sample, whole.reservoir.sample)
    assert (cut.smallest, cut.largest) == (whole.smallest, whole.largest) == (float(x.min()), float(x.max()))
    assert whole.histogram is not None
    assert cut.histogram is not None
    np.testing.assert_array_equal(cut.histogram.counts, whole.histogram.counts)
    assert cut.histogram.width == whole.histogram.width


def test_the_sample_is_uniform_and_without_replacement(rng: np.random.Generator) -> None:
    reservoir = Reservoir(10_000)
    for part in _cut(torch.arange(1_000_000.0), rng, 20):
        reservoir.add(part)

    sample = reservoir.sample
    assert len(set(sample.tolist())) == 10_000
    assert (np.diff(sample) > 0).all()  # the order of the stream
    # 1000 of each tenth, the deviation of a hypergeometric count is 30; 4 of them are less than 1 in 1000.
    np.testing.assert_allclose(np.histogram(sample, 10, (0, 1e6))[0], 1000, atol=120)


def test_channels_of_few_values_are_not_missed() -> None:
    values = torch.arange(8.0).repeat(2**15)  # every 16th is the same channel
    observer, again = Observer(), Observer()

    observer.add(values)
    again.add(values)

    sample = observer.reservoir.sample
    assert len(sample) == SAMPLES_PER_VALUE
    assert set(sample.tolist()) == set(range(8))
    np.testing.assert_array_equal(sample, again.reservoir.sample)


def test_bins_are_exact_also_where_they_were_narrower_before(rng: np.random.Generator) -> None:
    parts = [rng.normal(scale=scale, size=500).astype(np.float32) for scale in (1e-30, 0.01, 3, 0.5, 1e6)]
    parts[1][:7] = 0
    histogram = Histogram()

    for part in parts:
        histogram.add(torch.from_numpy(part), reach=float(np.abs(part).max()))

    x = np.concatenate(parts)
    assert 1 / (2 * Histogram.BINS) < histogram.width / np.abs(x).max() * 0.5 <= 1 / Histogram.BINS
    assert math.log2(histogram.width).is_integer()
    places = np.floor(x[x != 0] / histogram.width).astype(int) + Histogram.BINS
    np.testing.assert_array_equal(histogram.counts, np.bincount(places, minlength=2 * Histogram.BINS))
    assert histogram.zeros == 7


@pytest.mark.parametrize("reach", [1e-45, 1.0, 3.4e38])
def test_values_of_any_size_are_counted(reach: float) -> None:
    histogram = Histogram()
    histogram.add(torch.zeros(2), reach=0.0)
    histogram.add(torch.tensor([reach, -reach]), reach=reach)
    assert (histogram.counts.sum(), histogram.zeros) == (2, 2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_element_that_is_no_number_is_noticed(bad: float) -> None:
    observer = Observer(histogram=True)
    assert observer.is_finite
    for row in torch.ones(50, 1000):
        observer.add(row)
    assert observer.is_finite
    row[3] = bad
    observer.add(row)
    observer.add(torch.ones(5))
    assert not observer.is_finite


_CALIBRATION = """
import pathlib, re
import torch
from torch import fx, nn
from mpqtool.quantizers import ActivationQuantizer
from mpqtool.quantizers.calibrate import calibrate

names = [f"v{i}" for i in range(20)]
chain = nn.Sequential(*(ActivationQuantizer(n, 8, zero_point=0, nonnegative=True) for n in names))
class Leaves(fx.Tracer):
    def is_leaf_module(self, m, name):
        return isinstance(m, ActivationQuantizer)
network = fx.GraphModule(chain, Leaves().trace(chain))

def peak(batches):
    inputs = ((torch.rand(2, 8192),) for _ in range(batches))
    calibrate(network, inputs, list(chain), ranges="percentile")
    # not ru_maxrss, which begins with that of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])

print(peak(10), peak(100))
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="peaks are read from /proc")
def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    ran = subprocess.run(
        [sys.executable, "-P", "-c", _CALIBRATION], capture_output=True, text=True, check=True
    )
    few, many = map(int, ran.stdout.split())
    assert many < 1.1 * few  # 2**14 elements of every batch would add 115 MB
