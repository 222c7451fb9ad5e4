"""How fast an integer file is beside its float file, on ONNX Runtime.

python benchmarks/latency.py model.onnx model.mpq/model.int.onnx [--batch 1] [--threads 1] [--rounds 30]
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
from interleaved import seconds, table

from mpqtool.runtime.session import make_session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="the first is what the others are compared with")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)

    things = {}
    for path in map(pathlib.Path, arguments.files):
        session = make_session(path, threads=arguments.threads)
        feeds = {
            entry.name: rng.random(
                [size if isinstance(size, int) else arguments.batch for size in entry.shape], np.float32
            )
            for entry in session.get_inputs()
        }
        things[path.name] = lambda session=session, feeds=feeds: session.run(None, feeds)
    print(table(seconds(things, rounds=arguments.rounds), reference=pathlib.Path(arguments.files[0]).name))


if __name__ == "__main__":
    main()
