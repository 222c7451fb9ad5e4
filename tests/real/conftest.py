"""Real files from the package index, fetched once and kept in pytest's cache."""

from __future__ import annotations

import hashlib
import pathlib
import subprocess
import sys
import zipfile

import pytest

WHEEL = "rapidocr-onnxruntime==1.4.4"
SHA256 = {
    "ch_PP-OCRv4_det_infer.onnx": "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
    "ch_PP-OCRv4_rec_infer.onnx": "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
}


@pytest.fixture(scope="session")
def ocr_models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, pathlib.Path]:
    """The three PP-OCR files by name: of opset 11 and 12, written by paddle2onnx."""
    cache = getattr(request.config, "cache", None)
    folder = cache.mkdir("rapidocr") if cache else tmp_path_factory.mktemp("rapidocr")
    paths = {name: folder / name for name in SHA256}
    if not all(path.is_file() and _sha256(path) == SHA256[name] for name, path in paths.items()):
        _fetch(tmp_path_factory.mktemp("wheel"), paths)
    return paths


def _fetch(folder: pathlib.Path, paths: dict[str, pathlib.Path]) -> None:
    # The wheel names the Python versions of its code, which is not run; its models suit all.
    options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--retries=1"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        pytest.skip(f"cannot download {WHEEL}: {reason}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name, path in paths.items():
            path.write_bytes(archive.read(f"rapidocr_onnxruntime/models/{name}"))
            assert _sha256(path) == SHA256[name], name


def _sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
