"""Round weights up or down so that what a layer gives changes least, not each weight by itself."""

from __future__ import annotations

__all__ = ["Moments", "round_for_outputs"]

import dataclasses

import torch
from torch import Tensor

_SWEEPS = 20
"""Passes over all weights, at most; most layers settle in ten."""
_BLOCK = 64
"""Weights of a kernel whose changes are gathered before the others hear of them."""
_DAMPING = 0.01
"""Share of the mean power of the inputs that is added to each: few samples tell little of many inputs."""
_FAINT = 1e-10
"""Share of their mean square below which what varies in inputs is taken for rounding of float32."""


@dataclasses.dataclass
class Moments:
    """What a layer's rounding hangs on, summed over positions; it does not grow with their number.

    ``x`` is what the quantized layer multiplies, ``y`` what the float layer makes of its own input. Products
    are of differences to the means, as those of the values themselves would lose a small variance around a
    large mean in float32.

    Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample
    variances, 1979, equation 2.1, for ``add``.

    Attributes:
        count: Positions.
        x: Means of inputs, ``(groups, inputs)``.
        y: Means of results, ``(groups, kernels)``.
        xx: Sums of products of two inputs, each less its mean, ``(groups, inputs, inputs)``.
        yx: The same of results and inputs, ``(groups, kernels, inputs)``.
    """

    count: int
    x: Tensor
    y: Tensor
    xx: Tensor
    yx: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Moments:
        """Those of inputs ``(groups, inputs, positions)`` and results ``(groups, kernels, positions)``."""
        means = x.mean(2), y.mean(2)
        x, y = (values - mean[:, :, None] for values, mean in zip((x, y), means, strict=True))
        return cls(x.shape[2], *means, x @ x.mT, y @ x.mT)

    def add(self, other: Moments) -> None:
        """Go on with other positions."""
        count = self.count + other.count
        x, y = other.x - self.x, other.y - self.y
        apart = self.count * other.count / count
        self.xx.add_(other.xx).baddbmm_(x[:, :, None], x[:, None], alpha=apart)
        self.yx.add_(other.yx).baddbmm_(y[:, :, None], x[:, None], alpha=apart)
        self.x += x * (other.count / count)
        self.y += y * (other.count / count)
        self.count = count

    @property
    def centered(self) -> tuple[Tensor, Tensor]:
        """Covariance of the inputs, and of results with inputs: what no bias can make up for."""
        return self.xx / self.count, self.yx / self.count


def round_for_outputs(weight: Tensor, scale: Tensor, low: Tensor, high: Tensor, moments: Moments) -> Tensor:
    """Codes of a layer's weights, each the one below or the one above the weight, for the best results.

    For each kernel, what becomes less is the squared error of its results, the quantized layer fed with what
    the quantized layers before it give, up to a constant that a bias takes:

    ``E[(w x - v x')**2]``, with ``v = scale * code``, ``code in {floor(w / scale), floor(w / scale) + 1}``

    which is ``v C v - 2 v t`` with ``C = cov(x', x')`` and ``t = cov(w x, x')``, and a constant. That is a
    quadratic problem in binary numbers, AdaRound's; there a sigmoid of each is learned by gradient descent.
    With ``C`` at hand, the best code of one weight, all others fixed, is the one nearest to
    ``v_k - (C v - t)_k / C_kk``: so weights are gone through one after the other, until none changes.
    It begins with the nearest codes, and no step makes the error larger.

    Source: Nagel et al., Up or down? Adaptive rounding for post-training quantization, ICML 2020, equations
    13 and 21 to 25, without the activation function behind.

    Args:
        weight: ``(kernels, ...)``, kernels of a group one after the other.
        scale: Of each kernel, ``(kernels,)``.
        low: Smallest code of each kernel, ``(kernels,)``.
        high: Largest code.
        moments: Of the layer.

    Returns:
        Codes, of the weight's shape, float32.
    """
    groups, inputs = moments.x.shape
    parts = (groups, len(weight) // groups)
    w = (weight.flatten(1) / scale[:, None]).reshape(*parts, inputs)  # all in units of the scales
    low, high = (bound.reshape(*parts, 1).to(w) for bound in (low, high))
    covariance, wanted = moments.centered
    power = covariance.diagonal(dim1=1, dim2=2).mean(1)
    power = power.maximum(_FAINT * moments.x.square().mean(1)).clamp(min=torch.finfo(w.dtype).tiny)
    covariance = covariance / power[:, None, None]
    wanted = wanted / power[:, None, None] / scale.reshape(*parts, 1)
    covariance.diagonal(dim1=1, dim2=2).add_(_DAMPING)
    wanted = wanted + _DAMPING * w
    below = w.floor().clamp(low, high)
    above = (w.floor() + 1).clamp(low, high)
    codes = _settled(w.round().clamp(low, high), below, above, covariance, wanted)
    return codes.reshape(weight.shape)


def _settled(codes: Tensor, below: Tensor, above: Tensor, covariance: Tensor, wanted: Tensor) -> Tensor:
    """Go through all weights until no code changes; ``(groups, kernels, inputs)``, in units of scales."""
    codes, inputs = codes.clone(), codes.shape[2]
    slope = codes @ covariance - wanted
    for _ in range(_SWEEPS):
        changed = False
        for start in range(0, inputs, _BLOCK):
            block = slice(start, start + _BLOCK)
            before = codes[:, :, block].clone()
            _settle_block(codes[:, :, block], below, above, covariance[:, block, block], slope, start)
            change = codes[:, :, block] - before
            if bool(change.any()):
                changed = True
                slope += change @ covariance[:, block]
        if not changed:
            break
    return codes


def _settle_block(
    codes: Tensor, below: Tensor, above: Tensor, covariance: Tensor, slope: Tensor, start: int
) -> None:
    """Choose the codes of a block one after the other, in place."""
    width = codes.shape[2]
    own = slope[:, :, start : start + width].clone()
    for k in range(width):
        best = codes[:, :, k] - own[:, :, k] / covariance[:, k, k, None]
        place = start + k
        chosen = best.round_().clamp_(below[:, :, place], above[:, :, place])
        own += (chosen - codes[:, :, k])[:, :, None] * covariance[:, None, k]
        codes[:, :, k] = chosen
