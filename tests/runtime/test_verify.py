from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graphs import calibrated, normal, residual_cnn
from numpy.typing import NDArray
from verified import Files, write_files

from mpqtool.passes import arithmetic
from mpqtool.passes.quantize import complete
from mpqtool.passes.values import array, set_array
from mpqtool.runtime import kernels, session
from mpqtool.runtime import verify as engine
from mpqtool.runtime.errors import RuntimeFault
from mpqtool.runtime.reference import Reference
from mpqtool.runtime.verify import verify

Array = NDArray[Any]


def _power_of_two(scale: Any) -> Any:
    return np.exp2(np.rint(np.log2(scale)))


@pytest.fixture
def files(tmp_path: pathlib.Path, rng: np.random.Generator) -> Files:
    model, feeds = residual_cnn(rng), {"x": rng.normal(size=(16, 2, 8, 8)).astype(np.float32)}
    return write_files(tmp_path, model, feeds, calibrated(model, feeds, weight_bits=3, activation_bits=6))


@pytest.fixture
def files_with_ties(tmp_path: pathlib.Path, rng: np.random.Generator) -> Files:
    """All scales are powers of two, so that many results lie halfway between two codes."""
    model, feeds = residual_cnn(rng), {"x": rng.normal(size=(16, 2, 8, 8)).astype(np.float32)}
    plan = complete(model, calibrated(model, feeds))
    plan = plan.replaced(
        weights=[w.model_copy(update={"scale": tuple(_power_of_two(w.scale))}) for w in plan.weights],
        activations=[a.model_copy(update={"scale": _power_of_two(a.scale)}) for a in plan.activations],
    )
    return write_files(tmp_path, model, feeds, plan)


def _simulation(files: Files) -> Callable[[dict[str, Array]], dict[str, Array]]:
    reference = Reference(files.integer)
    return lambda feeds: {name: x for name, x in reference.run(feeds).items() if name in reference.codes}


def test_counts_every_code_once_and_passes(files: Files) -> None:
    labels = np.zeros(32, np.int64)

    result = files.verify(batches=2, simulate=_simulation(files), labels=labels)

    assert result.passed
    assert result.first_different is None
    assert result.engines == ("ort:all", "ort:basic", "ort:disabled", "ort:extended", "simulation")
    assert result.samples == 32
    per_sample = 2 * 64 + 4 * 64 + 4 * 16 + 3 * 8 * 4 + 2 * 8 + 5  # x, r0, m0, (c1, c2, r1), (g, f), y
    assert result.codes_compared == 32 * per_sample
    assert result.codes_different == 0
    assert result.constants_compared > 4 * 2 * 9 + 8 * 4 * 9 + 8 * 4 + 5 * 8
    assert {row.name for row in result.tensors} == {
        *(f"{name}.codes" for name in ("x", "r0", "m0", "c1", "c2", "r1", "g", "f")),
        "y",
    }
    assert result.qdq_max_lsb is not None
    assert result.qdq_rate is not None
    assert result.qdq_rate <= 0.05
    assert result.top1_agreement == 1
    assert result.integer_top1 == result.qdq_top1


def _alter_weight(model: ir.Model) -> None:
    stream = next(value for name, value in model.graph.initializers.items() if name.endswith(".packed"))
    numbers = np.array(array(stream))
    numbers[5] ^= 1
    set_array(stream, numbers)


def _alter_bias(model: ir.Model) -> None:
    value = model.graph.initializers["b1.codes"]
    numbers = np.array(array(value))
    numbers[0] += 1
    set_array(value, numbers)


def _alter_scale(model: ir.Model) -> None:
    value = model.graph.initializers["r1.scale"]
    set_array(value, np.nextafter(np.array(array(value)), np.float32(1)))


@pytest.mark.parametrize("alter", [_alter_weight, _alter_bias, _alter_scale])
def test_fails_if_one_number_of_the_file_is_altered(files: Files, alter: Callable[[ir.Model], None]) -> None:
    files.change(alter)

    result = files.verify()

    assert not result.passed
    assert result.constants_different >= 1
    assert result.first_different is not None
    assert result.first_different.endswith("(in the file)")


def test_fails_if_a_clip_is_gone(files: Files) -> None:
    """The codes of the file itself differ, not only its constants."""

    def widen(model: ir.Model) -> None:
        bound = next(
            n.inputs[2] for n in model.graph if n.op_type == "Clip" and n.outputs[0].name == "r0.codes"
        )
        assert bound is not None
        set_array(bound, np.array(255, np.uint8))

    beyond = dataclasses.replace(files, feeds={"x": 4 * files.feeds["x"]})  # what calibration has not seen
    assert beyond.verify().passed
    files.change(widen)

    result = beyond.verify()

    assert not result.passed
    assert result.codes_different > 0
    assert next(row.name for row in result.tensors if row.different) == "r0.codes"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        pytest.param(
            "multiplier",
            lambda x, w, y: (np.float64(x) * np.asarray(w, np.float64)) / np.float64(y) * (1 + 1e-4),
            id="multiplier-off",
        ),
        pytest.param(
            "requantize",
            lambda acc, factor, zero, low, high: np.clip(
                np.floor(np.asarray(acc, np.float64) * factor + 0.5) + zero, low, high
            ).astype(np.uint8),
            id="half-rounds-up",
        ),
    ],
)
def test_fails_if_the_arithmetic_is_another(
    files_with_ties: Files, monkeypatch: pytest.MonkeyPatch, name: str, wrong: Callable[..., Any]
) -> None:
    assert files_with_ties.verify().passed
    monkeypatch.setattr(arithmetic, name, wrong)

    result = files_with_ties.verify()

    assert not result.passed
    assert result.codes_different > 0


def test_fails_if_the_bias_is_off_by_one(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    convolve = kernels.convolve

    def wrong(x: Any, zero: int, weight: Any, bias: Any, *args: Any, **options: Any) -> Any:
        return convolve(x, zero, weight, None if bias is None else bias + 1, *args, **options)

    monkeypatch.setattr(kernels, "convolve", wrong)

    assert not files.verify().passed


def test_a_float_output_counts_for_the_simulation_only_if_it_gives_it(files: Files) -> None:
    reference = Reference(files.integer)

    codes_alone = files.verify(simulate=_simulation(files))
    both = files.verify(simulate=lambda feeds: reference.run(feeds))
    wrong = files.verify(simulate=lambda feeds: reference.run(feeds) | {"y": np.zeros((16, 5), np.float32)})

    assert [result.passed for result in (codes_alone, both, wrong)] == [True, True, False]
    assert wrong.first_different == "y (simulation)"
    held = [next(row.engines for row in result.tensors if row.name == "y") for result in (codes_alone, both)]
    assert ["simulation" in engines for engines in held] == [False, True]
    assert all("simulation" in row.engines for row in codes_alone.tensors if row.kind != "float")


@pytest.mark.parametrize("built_in", [True, False])
def test_says_which_provider_was_granted(
    files: Files, built_in: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """ONNX Runtime lists the GPU where it is built in, though there is none."""
    real = session.ort.InferenceSession

    def without_gpu(*args: Any, providers: list[str], **options: Any) -> Any:
        return real(*args, providers=["CPUExecutionProvider"], **options)

    listed = [*(["CUDAExecutionProvider"] if built_in else []), "CPUExecutionProvider"]
    monkeypatch.setattr(session.ort, "get_available_providers", lambda: listed)
    monkeypatch.setattr(session.ort, "InferenceSession", without_gpu)

    result = files.verify(provider="auto")

    assert result.passed
    assert result.provider == "cpu"
    said = [record.getMessage() for record in caplog.records if record.name == session.__name__]
    assert len(said) == built_in
    assert not built_in or "granted CPUExecutionProvider" in said[0]


def _misses_one(codes: dict[str, Array]) -> dict[str, Array]:
    return {name: x for name, x in codes.items() if name != "m0.codes"}


def _one_off(codes: dict[str, Array]) -> dict[str, Array]:
    wrong = codes["c1.codes"].copy()
    wrong[-1, -1, -1, -1] ^= 1
    return codes | {"c1.codes": wrong}


@pytest.mark.parametrize(
    ("spoil", "different", "first"),
    [
        pytest.param(_misses_one, 0, "m0.codes (simulation: not computed)", id="a-value-is-missing"),
        pytest.param(lambda codes: {}, 0, "x.codes (simulation: not computed)", id="nothing"),
        pytest.param(_one_off, 1, "c1.codes (simulation)", id="one-code-differs"),
        pytest.param(
            lambda codes: codes | {"g.codes": codes["g.codes"][:1]},
            0,
            "g.codes (simulation: shape (1, 8, 1, 1), expected (16, 8, 1, 1))",
            id="another-shape",
        ),
    ],
)
def test_fails_if_the_simulation_is_wrong(
    files: Files, spoil: Callable[[dict[str, Array]], dict[str, Array]], different: int, first: str
) -> None:
    right = _simulation(files)

    result = files.verify(simulate=lambda feeds: spoil(right(feeds)))

    assert not result.passed
    assert result.codes_different == different
    assert result.first_different == first


def test_fails_if_the_file_as_it_is_gives_another_output(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Showing the codes could change what ONNX Runtime does; the file without that counts."""
    other = ir.load(files.integer)
    bias = other.graph.initializers["b3.codes"]
    set_array(bias, np.array(array(bias)) + np.int32(1))
    session = engine._session

    def of_another_file(model: Any, provider: str, level: str) -> Any:
        shipped = isinstance(model, pathlib.Path) and level == "extended"
        return session(ir.to_proto(other).SerializeToString() if shipped else model, provider, level)

    monkeypatch.setattr(engine, "_session", of_another_file)

    result = files.verify()

    assert not result.passed
    assert result.first_different == "y (ort:extended, the file as it is)"


def test_nothing_compared_is_not_passed(files: Files) -> None:
    result = verify(files.integer, files.qdq, iter(()), threads=1)

    assert not result.passed
    assert result.codes_compared == 0
    assert result.qdq_max_lsb is None


def test_no_level_is_refused(files: Files) -> None:
    with pytest.raises(RuntimeFault, match="No optimisation level to verify at, allowed: disabled"):
        files.verify(levels=())


def test_files_of_two_models_are_refused(
    files: Files, tmp_path: pathlib.Path, rng: np.random.Generator
) -> None:
    (tmp_path / "b").mkdir()
    x = rng.normal(size=(2, 3)).astype(np.float32)
    text = "net (float[N, 3] x) => (float[N, 2] z) { z = Gemm <transB = 1> (x, w) }"
    model = normal(text, {"w": rng.normal(size=(2, 3))})
    other = write_files(tmp_path / "b", model, {"x": x}, calibrated(model, {"x": x}))

    with pytest.raises(RuntimeFault, match=r"does not hold 'r0.codes'.*they do not belong together"):
        verify(other.integer, files.qdq, [files.feeds])


def test_a_file_whose_widths_were_altered_is_named(files: Files) -> None:
    held = ir.load(files.integer)
    name, width = next((n, v) for n, v in held.graph.initializers.items() if n.startswith("width"))
    width.const_value = ir.tensor(array(width) + 3, name=name)
    ir.save(held, files.integer)
    with pytest.raises(RuntimeFault, match=r"cannot be unpacked: .* Lower the QDQ file again"):
        files.verify()
