"""IDX files, CIFAR-10 batches and image folders: pixels to arrays."""

from __future__ import annotations

import gzip
import pathlib
import struct

import numpy as np
import pytest
from PIL import Image

from mpqtool.data import load_data
from mpqtool.errors import DataError, OptionError


def _idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


def _write_idx(folder: pathlib.Path, rng: np.random.Generator, *, packed: bool) -> dict[str, np.ndarray]:
    arrays = {}
    for stem, count in (("train", 6), ("t10k", 3)):
        arrays[f"{stem}-images-idx3-ubyte"] = rng.integers(0, 256, (count, 4, 5), np.uint8)
        arrays[f"{stem}-labels-idx1-ubyte"] = rng.integers(0, 10, count, np.uint8)
    for name, array in arrays.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(_idx(array)))
        else:
            (folder / name).write_bytes(_idx(array))
    return arrays


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_idx(tmp_path: pathlib.Path, rng: np.random.Generator, packed: bool) -> None:
    arrays = _write_idx(tmp_path, rng, packed=packed)
    data = load_data(f"idx:{tmp_path}", inputs={"image": (None, 1, 4, 5)}, classes=10)
    expected = arrays["t10k-images-idx3-ubyte"][:, None].astype(np.float32) / 255
    np.testing.assert_array_equal(data.test.inputs["image"], expected)
    np.testing.assert_array_equal(data.train.labels, arrays["train-labels-idx1-ubyte"])
    assert (len(data.train), len(data.test), data.held_out) == (6, 3, False)


def test_idx_normalized(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    arrays = _write_idx(tmp_path, rng, packed=False)
    data = load_data(f"idx:{tmp_path}", mean=[0.5], std=[0.25])
    expected = (arrays["train-images-idx3-ubyte"][:, None] / 255 - 0.5) / 0.25
    # float32 against float64: a few units in the last place of values up to 2
    np.testing.assert_allclose(data.train.inputs["x"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_idx_cut_short(tmp_path: pathlib.Path, rng: np.random.Generator, packed: bool) -> None:
    _write_idx(tmp_path, rng, packed=packed)
    path = next(tmp_path.glob("train-images*"))
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"is cut short|cannot be read"):
        load_data(f"idx:{tmp_path}")


def test_idx_of_another_kind(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    _write_idx(tmp_path, rng, packed=False)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\x00\x00\x0d\x03" + bytes(12))
    with pytest.raises(DataError, match="starts with 00 00 0d 03, not 00 00 08 03"):
        load_data(f"idx:{tmp_path}")


def test_idx_missing_file(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    _write_idx(tmp_path, rng, packed=False)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="has no t10k-labels-idx1-ubyte"):
        load_data(f"idx:{tmp_path}")


def test_idx_for_a_model_of_another_size(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    _write_idx(tmp_path, rng, packed=False)
    with pytest.raises(DataError, match="shape N x 1 x 4 x 5, the model takes N x 1 x 28 x 28"):
        load_data(f"idx:{tmp_path}", inputs={"x": (None, 1, 28, 28)})


def test_pictures_need_one_input(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    _write_idx(tmp_path, rng, packed=False)
    with pytest.raises(DataError, match="pictures for one input and the model has 2: a, b"):
        load_data(f"idx:{tmp_path}", inputs={"a": (None, 1, 4, 5), "b": (None, 1)})


def test_resize_is_for_folders(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OptionError, match="resize applies to image folders only"):
        load_data(f"idx:{tmp_path}", resize=(8, 8))


def test_cifar10(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    records = rng.integers(0, 256, (6, 2, 3073), np.uint8)
    records[:, :, 0] %= 10
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for name, batch in zip(names, records, strict=True):
        (tmp_path / name).write_bytes(batch.tobytes())
    data = load_data(f"cifar10:{tmp_path}", inputs={"x": (None, 3, 32, 32)}, classes=10)
    assert (len(data.train), len(data.test)) == (10, 2)
    expected = records[5, :, 1:].reshape(2, 3, 32, 32).astype(np.float32) / 255
    np.testing.assert_array_equal(data.test.inputs["x"], expected)
    np.testing.assert_array_equal(data.train.labels, records[:5, :, 0].ravel())
    (tmp_path / "data_batch_3.bin").write_bytes(records[2].tobytes()[:-1])
    with pytest.raises(DataError, match="6145 bytes are not a whole number of records"):
        load_data(f"cifar10:{tmp_path}")


def test_cifar10_python_batches_are_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x03")
    with pytest.raises(DataError, match=r"are pickles and are never loaded.*binary version"):
        load_data(f"cifar10:{tmp_path}")


def _picture(path: pathlib.Path, color: tuple[int, int, int], size: tuple[int, int] = (4, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def test_folder(tmp_path: pathlib.Path) -> None:
    _picture(tmp_path / "train/cat/1.png", (255, 0, 0))
    _picture(tmp_path / "train/dog/1.png", (0, 255, 0))
    _picture(tmp_path / "train/dog/2.png", (0, 0, 255))
    _picture(tmp_path / "val/dog/1.png", (0, 51, 0))
    (tmp_path / "train/dog/notes.txt").write_text("no picture")
    data = load_data(tmp_path, inputs={"x": (None, 3, 3, 4)}, classes=2)
    assert data.train.labels is not None
    assert data.test.labels is not None
    assert data.train.labels.tolist() == [0, 1, 1]
    assert data.test.labels.tolist() == [1]
    np.testing.assert_array_equal(data.train.inputs["x"][:, :, 0, 0], np.eye(3, dtype=np.float32))
    np.testing.assert_array_equal(data.test.inputs["x"][0, 1], np.full((3, 4), 51 / 255, np.float32))


def test_folder_resized_and_grey(tmp_path: pathlib.Path) -> None:
    _picture(tmp_path / "train/a/1.png", (10, 10, 10), (4, 3))
    _picture(tmp_path / "train/a/2.png", (20, 20, 20), (9, 9))
    _picture(tmp_path / "val/a/1.png", (30, 30, 30))
    data = load_data(tmp_path, inputs={"x": (None, 1, 6, 8)}, resize=(6, 8))
    assert data.train.inputs["x"].shape == (2, 1, 6, 8)
    assert data.train.inputs["x"][1, 0, 0, 0] == np.float32(20) / 255
    with pytest.raises(DataError, match=r"2.png' is 9x9 and those before it are 3x4"):
        load_data(tmp_path, inputs={"x": (None, 1, None, None)})


def test_folder_mean_needs_one_value_per_channel(tmp_path: pathlib.Path) -> None:
    _picture(tmp_path / "train/a/1.png", (10, 10, 10))
    _picture(tmp_path / "val/a/1.png", (30, 30, 30))
    with pytest.raises(OptionError, match="mean needs one value, or one for each of the 3 channels, got 2"):
        load_data(tmp_path, mean=[0.5, 0.5])


def test_folder_errors(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match="has no folder train/"):
        load_data(tmp_path)
    _picture(tmp_path / "train/a/1.png", (10, 10, 10))
    with pytest.raises(DataError, match="has no folder val/"):
        load_data(tmp_path)
    (tmp_path / "val/a").mkdir(parents=True)
    with pytest.raises(DataError, match="no pictures in val/"):
        load_data(tmp_path)
    (tmp_path / "val/a/1.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(DataError, match=r"1\.png' cannot be read as a picture"):
        load_data(tmp_path)
    _picture(tmp_path / "val/b/1.png", (10, 10, 10))
    with pytest.raises(DataError, match="val/ has classes that train/ has not: b"):
        load_data(tmp_path)
