"""The contract between a method and the graph: which tensor is quantized, and how.

A plan is plain frozen data, JSON both ways. ``place`` makes one without numbers, a method fills in
bit-widths, scales and zero points, the passes write it into the graph. Names are ONNX value names of
the normal graph with BatchNormalization folded, so a weight scale is in units of the folded weight.
"""

from __future__ import annotations

__all__ = ["ActivationQuant", "Grid", "Plan", "WeightQuant", "first_fault"]

import enum
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import numpy as np
import pydantic

from .errors import PlanError

Bits = Annotated[int, pydantic.Field(ge=0, le=8)]
Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]


class Grid(enum.StrEnum):
    """Which integers the codes of a ``b``-bit weight are.

    ``SIGNED``: ``-(2**(b-1) - 1) ... 2**(b-1) - 1``, symmetric, holds 0.
    ``FULL``: ``-2**(b-1) ... 2**(b-1) - 1``, all signed integers of ``b`` bits: ``-Q_N ... Q_P`` of LSQ
    (Esser et al., Learned Step Size Quantization, equation 1). A code of ``-2**(b-1)`` has no negative.
    ``ODD``: the odd integers ``-(2**b - 1), ..., -1, 1, ..., 2**b - 1``: ``2**b`` levels and no 0
    (mid-rise, DoReFa). At 8 bits an odd code would need nine, so the grid is ``SIGNED`` there.
    """

    SIGNED = "signed"
    FULL = "full"
    ODD = "odd"


class _Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class WeightQuant(_Frozen):
    """How one weight is quantized, kernel by kernel: ``weight[o] = scale[o] * code[o]``.

    Attributes:
        name: The initializer.
        bits: One width per kernel (entry of axis 0), 0 to 8; 0 makes every code 0.
        grid: Which integers the codes are.
        scale: Real units per code, one per kernel; None: to be fitted to the weights.
        shift: Files hold ``code * 2**shift``, of a scale as much smaller: a bias is a whole number of
            products of scales, which is coarse where codes are few.
    """

    name: str
    bits: tuple[Bits, ...]
    grid: Grid
    scale: tuple[Positive, ...] | None = None
    shift: Annotated[int, pydantic.Field(ge=0, le=6)] = 0

    @pydantic.model_validator(mode="after")
    def _check(self) -> WeightQuant:
        if not self.bits:
            raise ValueError("bits is empty; it needs one width per kernel")
        if self.scale is not None and len(self.scale) != len(self.bits):
            raise ValueError(
                f"bits and scale need one entry per kernel, got {len(self.bits)} and {len(self.scale)}"
            )
        if self.grid is not Grid.ODD and 1 in self.bits:
            raise ValueError(f"the {self.grid} grid has no 1-bit codes; use grid 'odd' or at least 2 bits")
        return self


class ActivationQuant(_Frozen):
    """How one activation is quantized: ``value = scale * (code - zero_point) + offset``.

    Codes are ``clamp(rint((value - offset) / scale) + zero_point, 0, 2**bits - 1)``.

    Attributes:
        name: The value.
        bits: Width of a code, 1 to 8.
        scale: Real units per code; None: to be calibrated.
        zero_point: The code next to real 0, and of real 0 itself without an offset; None: to be calibrated.
            0 where the value cannot be negative.
        offset: The real number that the code ``zero_point`` stands for (LSQ+); what uses the value has to
            be able to fold it, see ``quantize.offsets``.
        padding: What a convolution of the value pads with: ``offset``, so that padding is one more code, or
            real ``zero``, which needs a map of the border wherever there is an offset.
    """

    name: str
    bits: Annotated[int, pydantic.Field(ge=1, le=8)]
    scale: Positive | None = None
    zero_point: Annotated[int, pydantic.Field(ge=0, le=255)] | None = None
    offset: Annotated[float, pydantic.Field(allow_inf_nan=False)] = 0.0
    padding: Literal["offset", "zero"] = "offset"

    @pydantic.model_validator(mode="after")
    def _check(self) -> ActivationQuant:
        if self.zero_point is not None and self.zero_point > 2**self.bits - 1:
            raise ValueError(
                f"zero_point must be a code, 0 to {2**self.bits - 1} at {self.bits} bits, "
                f"got {self.zero_point}"
            )
        if self.offset and (self.scale is None or self.zero_point is None):
            raise ValueError("offset is of no use without a scale and a zero_point")
        return self

    def with_beta(self, scale: float, beta: float) -> ActivationQuant:
        """The entry for a learned scale and real offset, ``value = scale * code + beta`` (LSQ+).

        The zero point is the code nearest to real 0, ``clamp(rint(-beta / scale))``, and the offset what it
        stands for, ``scale * zero_point + beta``: all a consumer has to fold, whatever beta is.

        Source: Bhalgat et al., LSQ+, equation 2 with codes 0 ... 2**bits - 1.
        """
        step = float(np.float32(scale))
        zero = int(np.clip(np.rint(-beta / step), 0, 2**self.bits - 1))
        offset = float(np.float32(step * zero + beta))
        return self.model_copy(update={"scale": step, "zero_point": zero, "offset": offset})

    def snapped(self) -> ActivationQuant:
        """The entry with its offset rounded to whole codes, so that real 0 is a code and no offset is left.

        Where real 0 is within the range of the codes, they move by half a code at most. Where it is below or
        above all of them, the range is stretched to it: the end far from 0 stays, and the step grows.
        """
        if not self.offset:
            return self
        assert self.scale is not None  # or there would be no offset
        assert self.zero_point is not None
        codes = 2**self.bits - 1
        bottom = self.offset - self.scale * self.zero_point
        top = bottom + self.scale * codes
        step = top / codes if bottom > 0 else -bottom / codes if top < 0 else self.scale
        return self.with_beta(step, bottom).model_copy(update={"offset": 0.0})


class Plan(_Frozen):
    """Every quantized tensor of a model, weights and activations, in graph order.

    Attributes:
        left_float: Tensors that could be quantized, and are not: why, by name.
    """

    schema_version: Annotated[int, pydantic.Field(ge=1, le=1)] = 1
    weights: tuple[WeightQuant, ...]
    activations: tuple[ActivationQuant, ...]
    left_float: dict[str, str] = {}  # pydantic copies it

    @pydantic.model_validator(mode="after")
    def _check(self) -> Plan:
        for kind in (self.weights, self.activations):
            names = [entry.name for entry in kind]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"listed twice: {', '.join(twice)}")
        quantized = {weight.name for weight in self.weights} | {value.name for value in self.activations}
        both = sorted(self.left_float.keys() & quantized)
        if both:
            raise ValueError(f"quantized, and in left_float too: {', '.join(both)}")
        return self

    @property
    def is_complete(self) -> bool:
        """Whether every scale and zero point is there."""
        return all(w.scale is not None for w in self.weights) and all(
            a.scale is not None and a.zero_point is not None for a in self.activations
        )

    def weight(self, name: str) -> WeightQuant | None:
        """The entry of an initializer, or None."""
        return next((entry for entry in self.weights if entry.name == name), None)

    def activation(self, name: str) -> ActivationQuant | None:
        """The entry of a value, or None."""
        return next((entry for entry in self.activations if entry.name == name), None)

    def replaced(
        self,
        *,
        weights: Iterable[WeightQuant] | None = None,
        activations: Iterable[ActivationQuant] | None = None,
    ) -> Plan:
        """A plan with other weights, other activations, or both; checked anew."""
        return Plan(
            weights=self.weights if weights is None else tuple(weights),
            activations=self.activations if activations is None else tuple(activations),
            left_float=self.left_float,
        )

    def without(self, reasons: Mapping[str, str]) -> Plan:
        """The plan with these tensors left in float.

        Args:
            reasons: Why, by name.
        """
        return Plan(
            weights=tuple(entry for entry in self.weights if entry.name not in reasons),
            activations=tuple(entry for entry in self.activations if entry.name not in reasons),
            left_float=self.left_float | dict(reasons),
        )

    def to_json(self) -> str:
        """One line per tensor, so that two plans can be compared with a text diff."""
        body = self.model_dump(mode="json")
        lines = []
        for key in ("weights", "activations"):
            rows = ",\n".join(f"    {json.dumps(row)}" for row in body[key])
            lines.append(f'  "{key}": [\n{rows}\n  ]' if rows else f'  "{key}": []')
        if self.left_float:
            rows = ",\n".join(
                f"    {json.dumps(name)}: {json.dumps(why)}" for name, why in self.left_float.items()
            )
            lines.append(f'  "left_float": {{\n{rows}\n  }}')
        joined = ",\n".join(lines)
        return f'{{\n  "schema_version": {self.schema_version},\n{joined}\n}}\n'

    @classmethod
    def from_json(cls, text: str, *, source: str = "plan") -> Plan:
        """Read a plan.

        Raises:
            PlanError: Not JSON, a field is missing, unknown or out of range; the first fault is named
                with its place in the file.
        """
        try:
            return cls.model_validate_json(text)
        except pydantic.ValidationError as error:
            raise PlanError(
                f"Cannot use {source}: {first_fault(error)}. "
                "Mend the file, or leave --plan out to make a new one."
            ) from None

    @classmethod
    def load(cls, path: str | pathlib.Path) -> Plan:
        """Read a plan file; see ``from_json``."""
        try:
            text = pathlib.Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise PlanError(f"Cannot read plan {str(path)!r}: {reason}.") from None
        return cls.from_json(text, source=repr(str(path)))


def first_fault(error: pydantic.ValidationError) -> str:
    """Where the first fault is, what it is and what was found, in one line."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where}: no such field; remove it"
    return f"{where + ': ' if where else ''}{first['msg']}{_found(first.get('input'))}"


def _found(value: object) -> str:
    """The offending value, if it is short enough to print."""
    return f", found {value!r}" if isinstance(value, int | float | str) and len(repr(value)) < 60 else ""
