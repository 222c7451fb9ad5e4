from __future__ import annotations

import contextlib

import onnx_ir as ir
import onnxruntime as ort
import pytest
from graphs import normal

from mpqtool.runtime import session
from mpqtool.runtime.errors import RuntimeFault
from mpqtool.runtime.session import LEVELS, make_session


@pytest.fixture
def model() -> bytes:
    return ir.to_proto(normal("net (float[N, 2] x) => (float[N, 2] y) { y = Relu (x) }")).SerializeToString()


@pytest.mark.parametrize("level", LEVELS)
def test_loads_at_every_level(model: bytes, level: str) -> None:
    made = make_session(model, level=level, threads=1)

    assert made.get_providers() == ["CPUExecutionProvider"]
    assert made.get_session_options().graph_optimization_level == LEVELS[level]
    assert made.get_session_options().intra_op_num_threads == 1


def test_provider_that_is_not_granted_is_a_fault(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime goes on with the CPU, and raises nothing."""

    class Fallback:
        def __init__(self, *args: object, **options: object) -> None: ...

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(session.ort, "InferenceSession", Fallback)
    monkeypatch.setattr(
        session.ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )

    with pytest.raises(RuntimeFault, match=r"asked for CUDAExecutionProvider, ONNX Runtime granted CPUEx"):
        make_session(model, provider="cuda")
    assert make_session(model, provider="auto").get_providers() == ["CPUExecutionProvider"]


def test_provider_that_is_not_built_in_is_a_fault(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])

    with pytest.raises(RuntimeFault, match=rf"ONNX Runtime {ort.__version__} has no CUDAExecutionProvider"):
        make_session(model, provider="cuda")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"provider": "gpu"}, "Unknown provider 'gpu', allowed: auto, cpu, cuda, tensorrt"),
        ({"level": "max"}, "Unknown optimisation level 'max', allowed: disabled, basic, extended, all"),
    ],
)
def test_unknown_names_are_faults(model: bytes, options: dict[str, str], message: str) -> None:
    with pytest.raises(RuntimeFault, match=message):
        make_session(model, **options)  # type: ignore[arg-type]


def test_what_cannot_be_loaded_is_a_fault() -> None:
    with pytest.raises(RuntimeFault, match="cannot load the model: "):
        make_session(b"no model")
    with pytest.raises(RuntimeFault, match=r"cannot load 'no/such\.onnx': "):
        make_session("no/such.onnx")


def test_sums_on_a_gpu_are_not_rounded_on_the_way(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Granted:
        def __init__(self, *args: object, providers: list[object], **options: object) -> None:
            asked.extend(providers)

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    monkeypatch.setattr(session.ort, "InferenceSession", Granted)
    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(session.ort, "get_available_providers", lambda: listed)

    make_session(model, provider="cuda")

    (name, options), cpu = asked
    assert (name, cpu) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options == {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}


def test_a_refused_provider_pours_out_nothing_of_its_own(
    model: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where CUDA is built in but not there, ONNX Runtime says so in lines of its own."""
    levels = []
    set_level = ort.set_default_logger_severity

    class Talkative:
        def __init__(self, *args: object, **options: object) -> None:
            print("EP Error")  # noqa: T201

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(session.ort, "InferenceSession", Talkative)
    monkeypatch.setattr(session.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(
        session.ort, "set_default_logger_severity", lambda level: (levels.append(level), set_level(level))
    )

    with pytest.raises(RuntimeFault, match="granted CPUEx"):
        make_session(model, provider="cuda")

    assert capfd.readouterr() == ("", "")
    assert levels == [4, 2]


@pytest.mark.skipif("CUDAExecutionProvider" not in ort.get_available_providers(), reason="not built in")
def test_a_cuda_that_cannot_be_loaded_is_refused_in_silence(
    model: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(RuntimeFault):
        make_session(model, provider="cuda")
    assert capfd.readouterr() == ("", "")
