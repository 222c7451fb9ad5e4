"""How good a quantized file is, how large and how fast, beside the float one."""

from __future__ import annotations

__all__ = ["Score", "score"]

import dataclasses
import functools
import pathlib

from numpy.typing import NDArray

from mpqtool import metrics
from mpqtool.runtime.interleaved import interleaved, ratio
from mpqtool.runtime.predict import predict
from mpqtool.runtime.session import make_session

_TIMED = 60  # rounds, of one sample on one thread


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """What plain ONNX Runtime makes of a file.

    Attributes:
        top1: Right answers in percent; None without labels.
        agreement: Answers that are those of the float file, in percent; None without class logits.
        sqnr: Of the worst output, in dB, the float file's outputs being the signal.
        bytes: Size of the file.
        ratio: Its time as a share of the float file's: median of the ratios of rounds in turn.
    """

    top1: float | None
    agreement: float | None
    sqnr: float
    bytes: int
    ratio: float


def score(
    path: pathlib.Path, float_path: pathlib.Path, inputs: dict[str, NDArray], labels: NDArray | None = None
) -> Score:
    outputs, reference = ([*predict(file, inputs)] for file in (path, float_path))
    logits = metrics.is_logits([y.shape for y in reference])
    sample = {name: array[:1] for name, array in inputs.items()}
    things = {
        file: functools.partial(make_session(file, threads=1).run, None, sample)
        for file in (path, float_path)
    }
    times = interleaved(things, rounds=_TIMED)
    return Score(
        top1=metrics.score("top1", outputs, reference, labels) if labels is not None else None,
        agreement=metrics.score("agreement", outputs, reference, None) if logits else None,
        sqnr=metrics.score("sqnr_db", outputs, reference, None),
        bytes=path.stat().st_size,
        ratio=ratio(times[path], times[float_path]),
    )
