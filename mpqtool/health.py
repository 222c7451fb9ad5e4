"""What this machine offers: versions, execution providers that really work, CPU features that matter."""

from __future__ import annotations

__all__ = ["cpu_features", "cpu_model", "examine", "has_vnni"]

import contextlib
import importlib.metadata
import io
import pathlib
import platform
from typing import Any

from .errors import RuntimeFault

_PACKAGES = (
    "mpqtool", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu", "torch", "accelerate",
    "numpy", "pydantic",
)  # fmt: skip
_FEATURES = {
    "avx2": ("avx2",),
    "avx512_vnni": ("avx512_vnni",),
    "avx_vnni": ("avx_vnni",),
    "amx": ("amx_int8",),
}
_ADDS_IN_32_BITS = ("avx512_vnni", "avx_vnni", "amx")
_NEEDS = {
    "cuda": "It needs an NVIDIA GPU, CUDA and cuDNN; pip install 'onnxruntime-gpu[cuda,cudnn]' brings them.",
    "tensorrt": "It needs an NVIDIA GPU, CUDA and the TensorRT libraries.",
}
_WARNING, _FATAL = 2, 4  # ONNX Runtime's severities; its default is the former
_SATURATES = (
    "This CPU multiplies uint8 by int8 in pairs that saturate at 16 bits (no VNNI, no AMX): sums of two "
    "products above 32767 would be wrong. The integer file uses uint8 weights where that could happen, which "
    "is exact but slower (--no-vnni, the default here); weight codes up to 64, or activations of 7 bits or "
    "fewer, cannot saturate."
)
_EXACT = (
    "This CPU adds uint8 x int8 products in 32 bits (VNNI or AMX): nothing can saturate, and int8 is fast. "
    "Integer files are made for such CPUs here; --no-vnni makes them exact on all."
)
_NOT_X86 = "This is no x86-64 CPU: what is said about saturation in AVX2 does not apply to it."


def examine() -> dict[str, Any]:
    """Look at everything; takes about a second, as a session is made for every provider."""
    versions = {name: _version(name) for name in _PACKAGES}
    problems = []
    if versions["onnxruntime"] and versions["onnxruntime-gpu"]:
        problems.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; uninstall both, "
            "then install mpqtool again"
        )
    features = cpu_features(pathlib.Path("/proc/cpuinfo"))
    return {
        "versions": {"python": platform.python_version(), **versions},
        "providers": _providers(),
        "cpu": {"model": cpu_model(), "features": features, "meaning": _meaning(features)},
        "problems": problems,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _providers() -> dict[str, dict[str, Any]]:
    """Make a session on each: what ONNX Runtime lists is what it was built with, not what works."""
    import onnxruntime as ort

    from mpqtool.runtime.session import PROVIDERS, make_session

    ort.set_default_logger_severity(_FATAL)
    states: dict[str, dict[str, Any]] = {}
    model = _tiny_model()
    for name in PROVIDERS:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # a banner when TensorRT is refused
                make_session(model, provider=name)
        except RuntimeFault as fault:
            reason = str(fault).partition(". ")[0]
            states[name] = {"works": False, "reason": f"{reason}. {_NEEDS.get(name, '')}".strip()}
        else:
            states[name] = {"works": True, "reason": None}
    ort.set_default_logger_severity(_WARNING)
    return states


def _tiny_model() -> bytes:
    import onnx

    model: bytes = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[N] x) => (float[N] y) { y = Relu(x) }'
    ).SerializeToString()
    return model


def cpu_features(cpuinfo: pathlib.Path) -> dict[str, bool | None]:
    """Read from ``/proc/cpuinfo`` what matters for int8; None where there is no such file."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return dict.fromkeys(_FEATURES)
    flags = next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())
    return {name: any(flag in flags for flag in spellings) for name, spellings in _FEATURES.items()}


def _meaning(features: dict[str, bool | None]) -> str:
    if platform.machine() not in ("x86_64", "AMD64"):
        return _NOT_X86
    if all(present is None for present in features.values()):
        return (
            "The features of this CPU cannot be read here; integer files are made so that none can saturate."
        )
    return _EXACT if any(features[name] for name in _ADDS_IN_32_BITS) else _SATURATES


def has_vnni() -> bool:
    """Whether this CPU adds uint8 x int8 products in 32 bits, so that no sum saturates in 16 bits.

    ARM CPUs do. Of others it is known from ``/proc/cpuinfo``; without that file the answer is no, which is
    never wrong.
    """
    if platform.machine().lower() in ("arm64", "aarch64"):
        return True
    features = cpu_features(pathlib.Path("/proc/cpuinfo"))
    return any(features[name] for name in _ADDS_IN_32_BITS)


def cpu_model() -> str:
    """What the CPU calls itself."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
