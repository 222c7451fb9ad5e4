"""Fourier transforms. ONNX has complex numbers as pairs on a last axis, and real ones alone on it."""

from __future__ import annotations

__all__ = [
    "dft",
    "import_dft",
    "import_dft_17",
    "import_mel_weight_matrix",
    "import_stft",
    "mel_weight_matrix",
    "stft",
]

import math
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from .attributes import single
from .cast import held
from .registry import integers, leaf, register


@register("DFT", 20, known=("dft_length", "axis"))
def import_dft(
    node: ir.Node,
    x: Tensor,
    dft_length: Any = None,
    axis: Any = -2,
    *,
    inverse: int = 0,
    onesided: int = 0,
) -> Tensor:
    """Import DFT."""
    return dft(x, dft_length, -2 if axis is None else axis, bool(inverse), bool(onesided))


@register("DFT", 17, known=("dft_length",))
def import_dft_17(
    node: ir.Node, x: Tensor, dft_length: Any = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0
) -> Tensor:
    """Import DFT as it was before opset 20."""
    return dft(x, dft_length, axis, bool(inverse), bool(onesided))


@leaf
def dft(x: Tensor, length: Any, axis: Any, inverse: bool, onesided: bool) -> Tensor:
    """Discrete Fourier transform along one axis; the inverse is divided by its length.

    Args:
        x: ``(..., 1)`` if real, ``(..., 2)`` if complex.
        length: Entries of the signal, which is cut or continued with zeros; None for all.
        axis: The axis, counted with the last one.
        inverse: Whether to go back.
        onesided: Leave out what is conjugate to the rest: of the result, or of ``x`` if ``inverse``.

    Returns:
        ``(..., 2)``, but ``(..., 1)`` for a onesided inverse, which is real.
    """
    n = None if length is None else integers(length)[0]
    dim = integers(axis)[0] % x.ndim
    signal = _numbers(x)
    if inverse and onesided:
        y: Tensor = torch.fft.irfft(signal, n, dim).unsqueeze(-1)
        return y.to(x.dtype)
    if inverse:
        return torch.view_as_real(torch.fft.ifft(signal, n, dim).resolve_conj()).to(x.dtype)
    return _spectrum(signal, n, dim, onesided).to(x.dtype)


@register("STFT", 17, known=("frame_step", "frame_length"))
def import_stft(
    node: ir.Node,
    signal: Tensor,
    frame_step: Any,
    window: Tensor | None = None,
    frame_length: Any = None,
    *,
    onesided: int = 1,
) -> Tensor:
    """Import STFT."""
    return stft(signal, frame_step, window, frame_length, bool(onesided))


@leaf
def stft(x: Tensor, step: Any, window: Tensor | None, length: Any, onesided: bool) -> Tensor:
    """Spectra of frames that begin every ``step`` entries.

    Args:
        x: ``(batch, entries, 1)`` if real, ``(batch, entries, 2)`` if complex.
        step: From one frame to the next.
        window: Weights of a frame, ``(length,)``; a shorter one cuts the frames, which zeros continue.
        length: Entries of a frame; None for those of the window, or of the signal.
        onesided: Leave out what is conjugate to the rest.

    Returns:
        ``(batch, 1 + (entries - length) // step, bins, 2)``.
    """
    size = len(window) if window is not None else x.shape[1]
    size = size if length is None else integers(length)[0]
    frames = _numbers(x).unfold(1, size, integers(step)[0])
    if window is not None:
        frames = frames[..., : len(window)] * window
    return _spectrum(frames, size, -1, onesided).to(x.dtype)


def _numbers(x: Tensor) -> Tensor:
    """Real or complex numbers of pairs on the last axis; torch transforms float32 and float64."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x[..., 0] if x.shape[-1] == 1 else torch.complex(x[..., 0], x[..., 1])


def _spectrum(signal: Tensor, n: int | None, dim: int, onesided: bool) -> Tensor:
    if onesided and not signal.is_complex():
        return torch.view_as_real(torch.fft.rfft(signal, n, dim))
    spectrum = torch.fft.fft(signal, n, dim)
    if onesided:
        spectrum = spectrum.narrow(dim, 0, spectrum.shape[dim] // 2 + 1)
    return torch.view_as_real(spectrum)


_MEL_INPUTS = ("num_mel_bins", "dft_length", "sample_rate", "lower_edge_hertz", "upper_edge_hertz")


@register("MelWeightMatrix", 17, known=_MEL_INPUTS)
def import_mel_weight_matrix(
    node: ir.Node,
    num_mel_bins: Any,
    dft_length: Any,
    sample_rate: Any,
    lower_edge_hertz: Any,
    upper_edge_hertz: Any,
    *,
    output_datatype: int = 1,
) -> Tensor:
    """Import MelWeightMatrix."""
    dtype = held(node, ir.DataType(output_datatype), "output")
    bins, length, rate = single(num_mel_bins), single(dft_length), single(sample_rate)
    return mel_weight_matrix(bins, length, rate, single(lower_edge_hertz), single(upper_edge_hertz), dtype)


@leaf
def mel_weight_matrix(
    mel_bins: Any, dft_length: Any, sample_rate: Any, low_hertz: Any, high_hertz: Any, dtype: torch.dtype
) -> Tensor:
    """Triangles over the bins of a spectrum, whose corners are evenly spaced in mel.

    ``mel = 2595 * log10(1 + hertz / 700)``; corner ``i`` lies at the bin
    ``(dft_length + 1) * hertz(i) // sample_rate``.

    Returns:
        ``(dft_length // 2 + 1, mel_bins)``.
    """
    device = next((v.device for v in (mel_bins, dft_length, sample_rate) if isinstance(v, Tensor)), None)
    count, length, rate = int(mel_bins), int(dft_length), int(sample_rate)
    low, high = (2595 * math.log10(1 + float(hertz) / 700) for hertz in (low_hertz, high_hertz))
    corners = low + torch.arange(count + 2, dtype=torch.float64, device=device) * (high - low) / (count + 2)
    bins = torch.floor((length + 1) * 700 * (10 ** (corners / 2595) - 1) / rate)
    left, center, right = bins[:-2], bins[1:-1], bins[2:]
    row = torch.arange(length // 2 + 1, device=device).unsqueeze(1)
    rising = torch.where(center == left, 1, (row - left) / (center - left))
    weights = torch.where((left <= row) & (row <= center), rising, 0)
    falling = (right - row) / (right - center)
    return torch.where((center <= row) & (row < right), falling, weights).to(dtype)
