"""Post-training quantization by NNCF, a process of its own, in an environment where ``nncf`` is.

    python nncf_quantize.py MODEL.onnx SAMPLES.npz OUT.onnx

All samples of the file, one at a time, everything else by default.
"""

from __future__ import annotations

import sys

import nncf
import numpy as np
import onnx


def main() -> None:
    model, samples, out = sys.argv[1:]
    with np.load(samples) as archive:
        arrays = {name: archive[name] for name in archive.files}
    count = len(next(iter(arrays.values())))
    feeds = [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(count)]
    quantized = nncf.quantize(onnx.load(model), nncf.Dataset(feeds), subset_size=count)
    onnx.save(quantized, out)


if __name__ == "__main__":
    main()
