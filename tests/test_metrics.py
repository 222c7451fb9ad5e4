from __future__ import annotations

import numpy as np
import pytest

from mpqtool.metrics import metric_name, score, sqnr_error

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


def test_the_standard_error_is_that_of_other_samples(rng: np.random.Generator) -> None:
    signal = rng.normal(size=(4000, 50))
    noise = 0.1 * rng.normal(size=(4000, 50)) * rng.gamma(1.0, size=(4000, 1))
    parts = np.split(np.arange(4000), 100)
    found = [score("sqnr_db", [(signal + noise)[rows]], [signal[rows]], None) for rows in parts]
    errors = [sqnr_error([(signal + noise)[rows]], [signal[rows]]) for rows in parts]
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.25)


def test_one_sample_with_all_the_noise_is_no_infinite_error() -> None:
    signal = np.ones((20, 3))
    outputs = signal.copy()
    outputs[7] += 1
    assert sqnr_error([outputs], [signal]) == pytest.approx(10 / np.log(10) * np.sqrt(0.95**2 + 19 * 0.05**2))
    assert sqnr_error([signal], [signal]) < 2  # no noise at all
