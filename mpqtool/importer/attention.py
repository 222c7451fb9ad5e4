"""Attention."""

from __future__ import annotations

__all__ = ["attention", "import_attention"]

import functools
import math

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from .dtypes import torch_dtype
from .registry import leaf, parts, register, unsupported

_PRECISIONS = (torch.float32, torch.float16, torch.float64, torch.bfloat16)


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
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
) -> tuple[Tensor, ...]:
    """Import Attention.

    Raises:
        UnsupportedOpError: ``softmax_precision`` is no type that a softmax can have, or there are past keys
            without values, or values without keys.
    """
    if (past_key is None) != (past_value is None):
        given, missing = ("past_key", "past_value") if past_value is None else ("past_value", "past_key")
        raise unsupported(node, f"{given} is given without {missing}. Give both inputs, or neither")
    precision = None if softmax_precision is None else torch_dtype(softmax_precision)
    if softmax_precision is not None and precision not in _PRECISIONS:
        raise unsupported(
            node,
            f"softmax_precision={softmax_precision} is no floating point type. Set it to 1 (float), "
            "10 (float16), 11 (double) or 16 (bfloat16), or leave it out",
        )
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
    stepwise = q.dtype.itemsize == 2 or softcap or precision not in (None, q.dtype) or scores_mode is not None
    # torch's own causal form counts queries from the first key on
    plain_causal = window == (True, -1, -1) and mask is None and valid is None and past_key is None
    if plain_causal and not stepwise:
        y, scores = _fused(q, k, v, None, scale, causal=True), None
    else:
        bias = _bias(q, k.shape[2], mask, valid, window, offset)
        if stepwise:
            y, scores = _attend(q, k, v, bias, scale, softcap, precision, scores_mode)
        else:
            y, scores = _fused(q, k, v, bias, scale), None
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


def _blind(bias: Tensor) -> Tensor:
    """Which queries see no key. A softmax of nothing but -inf has no gradient, so they need their own way."""
    return (bias == -math.inf).all(-1, keepdim=True)


def _fused(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None, causal: bool = False
) -> Tensor:
    """Attention in one kernel of torch. A query that sees no key gives zeros."""
    blind = None
    if bias is not None:
        bias = bias[(None,) * (4 - bias.ndim)].to(q.dtype)  # at rank 3 torch takes a slower kernel
        blind = _blind(bias)
        bias = bias.masked_fill(blind, 0)
    gqa = q.shape[1] != k.shape[1]
    y = F.scaled_dot_product_attention(q, k, v, bias, is_causal=causal, scale=scale, enable_gqa=gqa)
    return y if blind is None else y.masked_fill(blind, 0)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    scale: float | None,
    softcap: float,
    precision: torch.dtype | None,
    scores_mode: int | None,
) -> tuple[Tensor, Tensor | None]:
    """Attention step by step, 16 bit numbers in float32. A query that sees no key gives zeros."""
    dtype, groups = q.dtype, q.shape[1] // k.shape[1]
    if dtype.itemsize == 2:
        q, k, v = q.float(), k.float(), v.float()
    k, v = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (k, v))
    raw = (q * (1 / math.sqrt(q.shape[3]) if scale is None else scale)) @ k.transpose(2, 3)
    capped = softcap * torch.tanh(raw / softcap) if softcap else raw
    if bias is None:
        biased, logits, blind = capped, capped, None
    else:
        blind = _blind(bias)
        biased = capped + bias
        logits = torch.where(blind, 0, biased)
    weights = torch.softmax(logits, -1, precision or logits.dtype)
    if blind is not None:
        weights = weights.masked_fill(blind, 0)
    weights = weights.to(q.dtype)
    scores = None if scores_mode is None else (raw, capped, biased, weights)[scores_mode].to(dtype)
    return (weights @ v).to(dtype), scores
