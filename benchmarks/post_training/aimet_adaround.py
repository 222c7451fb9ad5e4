"""AdaRound of 4-bit weights with 8-bit activations by AIMET, a process of its own, where ``aimet-onnx`` is.

    python aimet_adaround.py MODEL.onnx SAMPLES.npz OUT.onnx [ITERATIONS]

The QDQ file has the rounded weights as floats, since it is AIMET that says which form it has.
"""

from __future__ import annotations

import sys

import aimet_onnx
import numpy as np
import onnx
from aimet_onnx.quantsim import QuantizationSimModel

_BATCH = 32


def main() -> None:
    model, samples, out, *iterations = sys.argv[1:]
    with np.load(samples) as archive:
        arrays = {name: archive[name] for name in archive.files}
    count = len(next(iter(arrays.values())))
    feeds = [{name: array[i : i + _BATCH] for name, array in arrays.items()} for i in range(0, count, _BATCH)]
    network = onnx.load(model)
    for index, node in enumerate(network.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    simulated = QuantizationSimModel(
        network, param_type="int4", activation_type="int8", providers=["CPUExecutionProvider"]
    )
    aimet_onnx.apply_adaround(simulated, feeds, num_iterations=int(iterations[0]) if iterations else 1000)
    simulated.compute_encodings(feeds)
    onnx.save(simulated.to_onnx_qdq(), out)


if __name__ == "__main__":
    main()
