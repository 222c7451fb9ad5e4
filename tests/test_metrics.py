from __future__ import annotations

import numpy as np
import pytest

from mpqtool.metrics import metric_name, score

LOGITS = np.array([[3.0, 1.0], [0.0, 2.0], [1.0, 0.0], [0.0, 1.0]], np.float32)


@pytest.mark.parametrize(
    ("shapes", "labels", "expected"),
    [
        pytest.param([(4, 2)], True, "top1", id="logits-labels"),
        pytest.param([(4, 2)], False, "agreement", id="logits"),
        pytest.param([(4, 1)], True, "sqnr_db", id="one-number"),
        pytest.param([(4, 2, 3)], False, "sqnr_db", id="map"),
        pytest.param([(4, 2), (4, 2)], False, "sqnr_db", id="two-outputs"),
    ],
)
def test_the_metric_follows_the_outputs(shapes: list[tuple[int, ...]], labels: bool, expected: str) -> None:
    outputs = [np.zeros(shape, np.float32) for shape in shapes]
    assert metric_name(outputs, np.zeros(4, np.int64) if labels else None) == expected


def test_top1_counts_labels_and_agreement_the_reference() -> None:
    labels = np.array([0, 0, 0, 1])
    assert score("top1", [LOGITS], [LOGITS], labels) == 75
    assert score("agreement", [LOGITS[:, ::-1]], [LOGITS], None) == 0
    assert score("agreement", [LOGITS], [LOGITS], None) == 100


def test_sqnr_is_that_of_the_worst_output() -> None:
    clean = np.ones((10, 10), np.float32)
    assert score("sqnr_db", [clean * 1.1, clean * 1.01], [clean, clean], None) == pytest.approx(20, abs=1e-4)
    assert score("sqnr_db", [clean], [clean], None) == 200


@pytest.mark.parametrize("metric", ["top1", "agreement", "sqnr_db"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_not_numbers_score_worst(metric: str, bad: float) -> None:
    broken = LOGITS.copy()
    broken[2, 1] = bad
    assert score(metric, [broken], [LOGITS], np.array([0, 1, 0, 1])) == -np.inf
