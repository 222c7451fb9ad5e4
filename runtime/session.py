"""The only place that builds an ONNX Runtime session."""

from __future__ import annotations

__all__ = ["LEVELS", "OPTIMIZED", "PROVIDERS", "make_session", "resolve_provider"]

import contextlib
import io
import logging
import os
from collections.abc import Iterator

import onnxruntime as ort

from .errors import RuntimeFault
from .providers import PROVIDERS

logger = logging.getLogger(__name__)

LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
"""The graph optimisation levels, weakest first."""

OPTIMIZED = "optimized.onnx"
"""The file that ONNX Runtime writes its own form of a graph to."""

_WARNING, _FATAL = 2, 4
_CPU = PROVIDERS["cpu"]
_OPTIONS = {PROVIDERS["cuda"]: {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}}
"""Sums of integers in float32 are exact only if nothing is rounded on the way. TF32 has 11 bits in place
of 24; and the usual search for an algorithm of convolution takes the fastest, which may transform its input
to fractions (Winograd, FFT), where the one by default multiplies matrices."""


def make_session(
    model: str | os.PathLike[str] | bytes,
    *,
    provider: str = "cpu",
    level: str = "all",
    threads: int | None = None,
    traces: str | os.PathLike[str] | None = None,
) -> ort.InferenceSession:
    """Load a model for running.

    Args:
        model: Path of a file, or its bytes.
        provider: A key of ``PROVIDERS``, or ``auto``: cuda if it works here, else cpu.
        level: A key of ``LEVELS``.
        threads: Threads of one operator; None: what ONNX Runtime chooses.
        traces: A folder for the optimised graph, ``OPTIMIZED``, and a profile, which
            ``session.end_profiling`` ends; None: neither is written.

    Raises:
        RuntimeFault: The provider is not granted (ONNX Runtime falls back without an exception), the
            name of provider or level is unknown, or the file cannot be loaded.
    """
    if provider == "auto":
        provider = resolve_provider(model, provider)
    if provider not in PROVIDERS:
        raise RuntimeFault(
            f"Unknown provider {provider!r}, allowed: auto, {', '.join(PROVIDERS)}. Choose one of these."
        )
    if level not in LEVELS:
        raise RuntimeFault(
            f"Unknown optimisation level {level!r}, allowed: {', '.join(LEVELS)}. Choose one of these."
        )
    wanted = PROVIDERS[provider]
    if wanted not in ort.get_available_providers():
        raise RuntimeFault(
            f"Cannot run on {provider}: this build of ONNX Runtime {ort.__version__} has no {wanted}. "
            "Use --provider cpu, or install onnxruntime-gpu."
        )
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = _FATAL  # what matters is raised below; the rest is noise on stderr
    if threads is not None:
        options.intra_op_num_threads = threads
    if traces is not None:
        options.optimized_model_filepath = os.path.join(traces, OPTIMIZED)
        options.profile_file_prefix = os.path.join(traces, "profile")
        options.enable_profiling = True
    source = model if isinstance(model, bytes) else os.fspath(model)
    try:
        with contextlib.nullcontext() if wanted == _CPU else _quiet():
            session = ort.InferenceSession(source, options, providers=_providers(wanted))
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this
        named = "the model" if isinstance(model, bytes) else repr(source)
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RuntimeFault(
            f"ONNX Runtime {ort.__version__} cannot load {named}: {first}. Check the file with "
            "`mpqtool inspect`."
        ) from error
    granted = session.get_providers()
    if wanted not in granted:
        raise RuntimeFault(
            f"Cannot run on {provider}: asked for {wanted}, ONNX Runtime granted {', '.join(granted)}. "
            "Use --provider cpu, or see `mpqtool doctor`."
        )
    return session


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the lines on how a provider could not be loaded: one of ours follows.

    They come from the logger that all sessions share, whose level cannot be asked (``_WARNING`` is ONNX
    Runtime's own), and for TensorRT on standard output.
    """
    ort.set_default_logger_severity(_FATAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        ort.set_default_logger_severity(_WARNING)


def _providers(wanted: str) -> list[str | tuple[str, dict[str, str]]]:
    """The provider with its options, and the one that computes what it cannot."""
    if wanted == _CPU:
        return [_CPU]
    return [(wanted, _OPTIONS[wanted]) if wanted in _OPTIONS else wanted, _CPU]


def resolve_provider(model: str | os.PathLike[str] | bytes, provider: str) -> str:
    """The provider to run a model on: the one asked for; for ``auto``, cuda if it works here, else cpu.

    Args:
        model: What is to run: only a session shows whether a GPU can be used.
        provider: A key of ``PROVIDERS``, or ``auto``.
    """
    if provider != "auto":
        return provider
    if PROVIDERS["cuda"] not in ort.get_available_providers():
        return "cpu"  # nothing to fall back from
    try:
        make_session(model, provider="cuda")
    except RuntimeFault as fault:
        logger.warning("Running on cpu, as cuda does not work here: %s", fault)
        return "cpu"
    return "cuda"
