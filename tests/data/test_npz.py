"""Samples in an .npz file: names, splits, and what is refused."""

from __future__ import annotations

import pathlib
import pickle

import numpy as np
import pytest

from mpqtool.data import default_data, load_data
from mpqtool.errors import DataError, OptionError

INPUTS = {"x": (None, 2, 3)}


def _x(count: int, *, first: float = 0.0) -> np.ndarray:
    return (first + np.arange(count * 6, dtype=np.float32)).reshape(count, 2, 3)


def _save(folder: pathlib.Path, **arrays: object) -> str:
    path = folder / "samples.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def test_both_splits(tmp_path: pathlib.Path) -> None:
    spec = _save(tmp_path, x=_x(4), label=[0, 1, 2, 1], x_test=_x(2, first=50), label_test=[2, 0])
    data = load_data(spec, inputs=INPUTS, classes=3)
    assert not data.held_out
    np.testing.assert_array_equal(data.train.inputs["x"], _x(4))
    np.testing.assert_array_equal(data.test.inputs["x"], _x(2, first=50))
    assert data.train.labels is not None
    assert data.test.labels is not None
    assert data.train.labels.tolist() == [0, 1, 2, 1]
    assert data.test.labels.tolist() == [2, 0]
    assert data.test.labels.dtype == np.int64
    assert len(data.train) == 4


def test_last_fifth_is_held_out_and_said_so(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = _save(tmp_path, x=_x(11), label=np.arange(11))
    with caplog.at_level("INFO"):
        data = load_data(spec)
    assert data.held_out
    assert data.train.labels is not None
    assert data.test.labels is not None
    assert data.train.labels.tolist() == list(range(9))
    assert data.test.labels.tolist() == [9, 10]
    np.testing.assert_array_equal(data.test.inputs["x"], _x(11)[9:])
    assert "last 2 of 11 samples are held out" in caplog.text


def test_labels_may_be_missing(tmp_path: pathlib.Path) -> None:
    data = load_data(_save(tmp_path, x=_x(5)), inputs=INPUTS)
    assert data.train.labels is None
    assert data.test.labels is None


def test_inputs_come_in_the_order_of_the_model(tmp_path: pathlib.Path) -> None:
    spec = _save(tmp_path, b=_x(5), a=_x(5, first=1))
    data = load_data(spec, inputs={"a": (None, 2, 3), "b": (None, 2, 3)})
    assert list(data.train.inputs) == ["a", "b"]
    assert list(data.test.inputs) == ["a", "b"]


def test_float64_is_brought_to_float32(tmp_path: pathlib.Path) -> None:
    data = load_data(_save(tmp_path, x=_x(5).astype(np.float64)), inputs=INPUTS)
    assert data.train.inputs["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        pytest.param({"image": _x(5)}, r"holds 'image': missing 'x', not expected 'image'", id="other-name"),
        pytest.param({"x": _x(5), "w": _x(5)}, r"not expected 'w'", id="extra"),
        pytest.param({"label": [1, 2]}, r"missing 'x'", id="only-labels"),
        pytest.param(
            {"x": _x(5), "label": [0] * 5, "x_test": _x(2)}, r"missing 'label_test'", id="no-label-test"
        ),
        pytest.param({"x": _x(5)[:, :, :2]}, r"shape N x 2 x 2, the model takes N x 2 x 3", id="shape"),
        pytest.param({"x": _x(5).ravel()}, r"shape N, the model takes N x 2 x 3", id="rank"),
        pytest.param({"x": _x(5).astype(np.uint8)}, r"type uint8, and float32 is needed.*/ 255", id="uint8"),
        pytest.param({"x": _x(5).astype(np.int64)}, r"type int64, and float32 is needed", id="int64"),
        pytest.param({"x": _x(5) > 2}, r"type bool", id="bool"),
        pytest.param({"x": _x(5), "label": [0.0] * 5}, r"labels have type float64", id="float-labels"),
        pytest.param({"x": _x(5), "label": [[0]] * 5}, r"labels have shape \(4, 1\)", id="label-rank"),
        pytest.param({"x": _x(5), "label": [0, 1, 2, 3, 1]}, r"label 3 of sample 3 .*: 0 to 2", id="range"),
        pytest.param({"x": _x(5), "label": [0, -1, 2, 1, 1]}, r"label -1 of sample 1", id="negative"),
        pytest.param({"x": _x(4)}, r"4 samples and no test split", id="too-few"),
        pytest.param({"x": np.float32(1)}, r"'x' is a single number", id="scalar"),
        pytest.param(
            {"x": _x(5), "x_test": _x(0)}, r"test split: there are no samples", id="empty-test"
        ),
        pytest.param(
            {"x": _x(5), "label": [0] * 4, "x_test": _x(1), "label_test": [0]},
            r"4 labels for 5 samples",
            id="label-count",
        ),
    ],
)  # fmt: skip
def test_refused(tmp_path: pathlib.Path, arrays: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_data(_save(tmp_path, **arrays), inputs=INPUTS, classes=3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_named(tmp_path: pathlib.Path, value: float) -> None:
    x = _x(5)
    x[1, 0, 2] = value
    with pytest.raises(DataError, match=rf"'x' holds {value} at \[1, 0, 2\]"):
        load_data(_save(tmp_path, x=x), inputs=INPUTS)


def test_overflow_of_float32_is_not_finite(tmp_path: pathlib.Path) -> None:
    x = _x(5).astype(np.float64)
    x[0, 0, 0] = 1e300
    with pytest.raises(DataError, match=r"1e\+300 at \[0, 0, 0\]"):
        load_data(_save(tmp_path, x=x), inputs=INPUTS)


def test_two_inputs_need_equal_counts(tmp_path: pathlib.Path) -> None:
    spec = _save(tmp_path, a=_x(5), b=_x(4), a_test=_x(1), b_test=_x(1))
    with pytest.raises(DataError, match="differ in their number of samples"):
        load_data(spec)


def test_object_arrays_are_never_loaded(tmp_path: pathlib.Path) -> None:
    spec = _save(tmp_path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="is a pickle and is never loaded"):
        load_data(spec)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"PK\x03\x04 but no zip", id="no-zip"),
        pytest.param(pickle.dumps({"x": 1}), id="pickle"),
    ],
)
def test_other_files_are_refused(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "samples.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"is not an \.npz file, or is cut short"):
        load_data(path)


def test_truncated_file_is_refused(tmp_path: pathlib.Path) -> None:
    path = pathlib.Path(_save(tmp_path, x=_x(50)))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"is not an \.npz file, or is cut short"):
        load_data(path)


def test_npy_has_no_names(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "samples.npz"
    with path.open("wb") as handle:
        np.save(handle, _x(5))
    with pytest.raises(DataError, match="one array without a name"):
        load_data(path)


def test_pixel_options_do_not_apply(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OptionError, match="mean applies to pictures only"):
        load_data(_save(tmp_path, x=_x(5)), mean=[0.5])


def test_default_is_the_file_beside_the_model(tmp_path: pathlib.Path) -> None:
    assert default_data(tmp_path / "model.onnx") is None
    (tmp_path / "model.npz").touch()
    assert default_data(tmp_path / "model.onnx") == str(tmp_path / "model.npz")


@pytest.mark.parametrize(
    ("labels", "classes", "dtype", "is_class"),
    [
        pytest.param(np.ones((5, 4)), 3, np.float32, False, id="boxes"),
        pytest.param(np.array([[1], [2], [0], [1], [2]], np.int32), 3, np.int64, False, id="rank"),
        pytest.param(np.array([7, 1, 1, 1, 1]), 3, np.int64, False, id="other-numbers"),
        pytest.param(np.arange(5) > 2, 3, np.bool_, False, id="truth"),
        pytest.param(np.arange(5) % 3, 3, np.int64, True, id="classes"),
        pytest.param(np.arange(5) % 3, None, np.int64, False, id="no-logits"),
    ],
)
def test_labels_for_functions_of_the_user(
    tmp_path: pathlib.Path, labels: np.ndarray, classes: int | None, dtype: type, is_class: bool
) -> None:
    data = load_data(_save(tmp_path, x=_x(5), label=labels), inputs=INPUTS, classes=classes, any_labels=True)
    assert data.class_labels is is_class
    assert data.train.labels is not None
    assert data.test.labels is not None
    assert data.train.labels.dtype == data.test.labels.dtype == dtype
    np.testing.assert_array_equal(np.concatenate([data.train.labels, data.test.labels]), labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        pytest.param(np.ones((4, 2)), "4 labels for 5 samples", id="count"),
        pytest.param(np.array(["a"] * 5), "labels have type <U1; they must be numbers", id="text"),
    ],
)
def test_labels_that_no_function_gets(tmp_path: pathlib.Path, labels: np.ndarray, message: str) -> None:
    spec = _save(tmp_path, x=_x(5), label=labels, x_test=_x(1), label_test=labels[:1])
    with pytest.raises(DataError, match=message):
        load_data(spec, inputs=INPUTS, any_labels=True)
