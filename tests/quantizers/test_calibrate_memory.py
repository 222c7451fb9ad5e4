"""Calibration streams: ten times the samples need no more memory."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

_STATUS = pathlib.Path("/proc/self/status")
# The peak is read from /proc: ru_maxrss of a process begins with that of the one which started it.
_CHILD = """
import re, pathlib, numpy as np, torch
from onnx_text import parse
from mpqtool.importer import import_graph
from mpqtool.passes.pipelines import normalize
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.quantizers.attach import attach, plain_activations, plain_weights
from mpqtool.quantizers.calibrate import calibrate

rng = np.random.default_rng(0)
weights = {"w": rng.normal(size=(16, 3, 3, 3)), "u": rng.normal(size=(16, 16, 3, 3)) / 9}
model = normalize(parse('''net (float[N, 3, 32, 32] x) => (float[N, 16, 32, 32] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w)
    r = Relu (c)
    d = Conv <pads = [1, 1, 1, 1]> (r, u)
    y = Relu (d)
}''', {name: array.astype(np.float32) for name, array in weights.items()}))
network = attach(import_graph(model), place(model, weight_bits=8, activation_bits=8, grid=Grid.ODD))
parameters = dict(network.named_parameters())
for weight in plain_weights(network):
    weight.fit(parameters[weight.name])
values = plain_activations(network)

def peak(samples):
    batches = ((torch.randn(20, 3, 32, 32),) for _ in range(samples // 20))
    calibrate(network, batches, values, ranges="percentile")
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])

print(len(values), peak(60), peak(600))
"""


@pytest.mark.skipif(not _STATUS.exists(), reason="peaks are read from /proc")
def test_ten_times_the_samples_take_less_than_a_tenth_more_memory() -> None:
    here = [str(pathlib.Path(__file__).parents[1]), *sys.path]
    code = f"import sys; sys.path[:] = {here!r}\n{_CHILD}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    values, few, many = map(int, ran.stdout.split())
    assert values == 3  # to keep all of them would take 77 MB more
    assert many < 1.1 * few
