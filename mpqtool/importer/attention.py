"""Attention, and the rotary embedding of what goes into it."""

from __future__ import annotations

__all__ = ["attention", "import_attention", "import_rotary_embedding", "rotary_embedding"]

import functools
import math

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from .dtypes import torch_dtype
from .registry import leaf, parts, register, unsupported

_RAW, _CAPPED, _BIASED, _SOFTMAX = range(4)  # what qk_matmul_output_mode may ask for


@register("Attention", 23, 24, 25)
def import_attention(
    node: ir.Node,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = _RAW,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
) -> tuple[Tensor, ...]:
    """Import Attention.

    Raises:
        UnsupportedOpError: ``softmax_precision`` is no type of floating point numbers, or there are past
            keys without values.
    """
    if (past_key is None) != (past_value is None):
        raise unsupported(node, "past_key and past_value belong together, and only one is given")
    precision = None if softmax_precision is None else torch_dtype(softmax_precision)
    if softmax_precision is not None and (precision is None or not precision.is_floating_point):
        raise unsupported(node, f"softmax_precision={softmax_precision} is no floating point type")
    wants_scores = len(node.outputs) > 3 and bool(node.outputs[3].name)
    results = attention(
        q,
        k,
        v,
        mask,
        past_key,
        past_value,
        valid,
        (q_num_heads, kv_num_heads),
        scale,
        softcap,
        (bool(is_causal), left_window_size, right_window_size),
        precision,
        qk_matmul_output_mode if wants_scores else None,
    )
    return parts(results, node)


@leaf
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
    valid: Tensor | None,
    heads: tuple[int | None, int | None],
    scale: float | None,
    softcap: float,
    window: tuple[bool, int, int],
    precision: torch.dtype | None,
    scores_mode: int | None,
) -> tuple[Tensor | None, ...]:
    """``softmax(cap(scale * Q K') + bias) V``, keys, values and, if wanted, the scores.

    Args:
        q: ``(batch, heads, queries, size)``, or ``(batch, queries, heads * size)``; so ``k`` and ``v``
            with the keys, and with as many heads or a divisor of that number.
        k: Keys.
        v: Values.
        mask: What to add to the scores, or booleans, true where a query sees a key; broadcast to
            ``(batch, heads, queries, keys)``, its last axis may be shorter: nothing sees the others.
        past_key: Keys before those of ``k``.
        past_value: Values before those of ``v``.
        valid: How many keys of each batch entry are no padding; the last query is at the last of them.
        heads: Of queries, and of keys and values, where these are of rank 3.
        scale: ``1 / sqrt(size)`` if None.
        softcap: ``cap(x) = softcap * tanh(x / softcap)``, no cap if 0.
        window: Whether no query sees a later key, and how many before and after it sees, -1 for all.
        precision: Type in which to compute the softmax.
        scores_mode: Which scores to give: 0 the products, 1 capped, 2 with the bias, 3 the softmax.
    """
    flat = q.ndim == 3
    if flat:
        q, k, v = _split_heads(q, heads[0]), _split_heads(k, heads[1]), _split_heads(v, heads[1])
    offset: int | Tensor = 0
    if past_key is not None and past_value is not None:
        offset = past_key.shape[2]
        k, v = torch.cat((past_key, k), 2), torch.cat((past_value, v), 2)
    elif valid is not None:
        offset = valid.view(-1, 1, 1, 1) - q.shape[2]
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    bias = _bias(q, k.shape[2], mask, valid, window, offset)
    scores = None
    if q.dtype.itemsize > 2 and bias is None and not softcap and precision is None and scores_mode is None:
        y = F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    else:
        y, scores = _attend(q, k, v, bias, scale, softcap, precision, scores_mode)
    return y.transpose(1, 2).flatten(2) if flat else y, k, v, scores


def _split_heads(x: Tensor, heads: int | None) -> Tensor:
    assert heads, "the schema asks for the numbers of heads if the inputs are of rank 3"
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _bias(
    q: Tensor,
    keys: int,
    mask: Tensor | None,
    valid: Tensor | None,
    window: tuple[bool, int, int],
    offset: int | Tensor,
) -> Tensor | None:
    """What is added to the scores: the mask, and -inf where a query does not see a key."""
    causal, left, right = window
    key = torch.arange(keys, device=q.device)
    query = torch.arange(q.shape[2], device=q.device).unsqueeze(1) + offset
    seen = []
    if causal:
        seen.append(key <= query)
    if left >= 0:
        seen.append(key >= query - left)
    if right >= 0:
        seen.append(key <= query + right)
    if valid is not None:
        seen.append(key < valid.view(-1, 1, 1, 1))
    bias = None
    if mask is not None:
        missing = (0, keys - mask.shape[-1])
        if mask.dtype == torch.bool:
            seen.append(F.pad(mask, missing, value=False))
        else:
            bias = F.pad(mask, missing, value=-math.inf)
    if seen:
        hidden = torch.where(functools.reduce(torch.logical_and, seen), 0.0, -math.inf).to(q.dtype)
        bias = hidden if bias is None else bias + hidden
    return bias


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float,
    precision: torch.dtype | None,
    scores_mode: int | None,
) -> tuple[Tensor, Tensor | None]:
    """Attention step by step, 16 bit numbers in float32. A query that sees no key gives zeros."""
    dtype, groups = q.dtype, q.shape[1] // k.shape[1]
    if dtype.itemsize == 2:
        q, k, v = q.float(), k.float(), v.float()
    k, v = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (k, v))
    raw = (q * scale) @ k.transpose(2, 3)
    capped = softcap * torch.tanh(raw / softcap) if softcap else raw
    if bias is None:
        biased, logits, blind = capped, capped, None
    else:
        blind = (bias == -math.inf).all(-1, keepdim=True)
        biased = capped + bias
        logits = torch.where(blind, 0, biased)  # a softmax of nothing but -inf has no gradient
    weights = torch.softmax(logits, -1, precision or logits.dtype)
    if blind is not None:
        weights = weights.masked_fill(blind, 0)
    weights = weights.to(q.dtype)
    scores = None if scores_mode is None else (raw, capped, biased, weights)[scores_mode].to(dtype)
    return (weights @ v).to(dtype), scores


@register("RotaryEmbedding", 23)
def import_rotary_embedding(
    node: ir.Node,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Import RotaryEmbedding; the tables of cosines and sines are not trained."""
    return rotary_embedding(x, cos, sin, positions, bool(interleaved), num_heads, rotary_embedding_dim)


@leaf
def rotary_embedding(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None,
    interleaved: bool,
    heads: int,
    rotated: int,
) -> Tensor:
    """Turn pairs of numbers by an angle that grows with the position (arXiv 2104.09864, eq. 34).

    Args:
        x: ``(batch, heads, sequence, size)``, or ``(batch, sequence, heads * size)``.
        cos: ``(batch, sequence, rotated / 2)``, or ``(positions, rotated / 2)`` with ``positions``.
        sin: The same.
        positions: ``(batch, sequence)``, rows of the tables.
        interleaved: Whether the pairs are neighbours, or from the two halves.
        heads: Where ``x`` is of rank 3.
        rotated: How many numbers of each head to turn, 0 for all.
    """
    heads_last = x.unflatten(2, (heads, -1)) if x.ndim == 3 else x.transpose(1, 2)
    rotated = rotated or heads_last.shape[3]
    turned, kept = heads_last[..., :rotated], heads_last[..., rotated:]
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    pair = (cos * a - sin * b, sin * a + cos * b)
    turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    y = torch.cat((turned, kept), -1) if kept.shape[3] else turned
    return y.flatten(2) if x.ndim == 3 else y.transpose(1, 2)
