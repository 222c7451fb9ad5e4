"""Count how many integers were compared, and how many differ."""

from __future__ import annotations

__all__ = ["Tally", "TensorResult"]

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_ISLAND_SHARE = 0.1
_ISLAND_FEW = 3
"""How many codes behind a float operator may differ by 1 between engines: 10 % of a tensor, or a few of a
small one. Mostly it is a few in ten thousand, but a linear Resize by 2 weighs in sixteenths, so that every
sixteenth result can be a tie, which float32 breaks either way."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorResult:
    """What was found for one tensor.

    Attributes:
        name: The value.
        kind: ``codes``; ``island``: codes that a float operator makes; ``float``: real values that are
            defined to the bit.
        engines: Those that computed it, and were compared.
        compared: Elements, each counted once however many engines computed it.
        different: Elements that at least one engine computed otherwise; at an island, by more than 1.
        largest: Largest difference; codes, or real units for ``float``.
        island_different: At an island, elements that differ by 1.
        qdq_compared: Elements compared with the QDQ file.
        qdq_different: Of these, those that differ.
        qdq_largest: Largest difference from the QDQ file, in codes.
        local_compared: Elements compared with what the QDQ file computes from the same inputs.
        local_different: Of these, those that differ.
        local_largest: Largest difference from that, in codes.
    """

    name: str
    kind: str
    engines: tuple[str, ...] = ()
    compared: int = 0
    different: int = 0
    largest: float = 0
    island_different: int = 0
    qdq_compared: int = 0
    qdq_different: int = 0
    qdq_largest: int = 0
    local_compared: int = 0
    local_different: int = 0
    local_largest: int = 0

    @property
    def is_off_too_often(self) -> bool:
        """Whether too many codes behind a float operator differ by 1."""
        return self.island_different > max(_ISLAND_SHARE * self.compared, _ISLAND_FEW)


class Tally:
    """Collects comparisons of many batches.

    Args:
        kinds: The tensors to compare, by name, in graph order, with their kind.
        required: By name: the engines that must have computed the tensor. Others may leave it out.

    Attributes:
        first_different: ``NAME (ENGINE)`` of the first difference that counts, or None.
    """

    def __init__(self, kinds: Mapping[str, str], required: Mapping[str, Collection[str]]) -> None:
        self._rows = {name: TensorResult(name=name, kind=kind) for name, kind in kinds.items()}
        self._required = {name: set(required[name]) for name in kinds}
        self.first_different: str | None = None

    @property
    def rows(self) -> tuple[TensorResult, ...]:
        """One row per tensor, in graph order."""
        return tuple(self._rows.values())

    def fail(self, what: str) -> None:
        """Note a difference that is not one of codes."""
        self.first_different = self.first_different or what

    def limit_islands(self) -> None:
        """Fail where too many codes behind a float operator differ by 1."""
        for row in self._rows.values():
            if row.is_off_too_often:
                self.fail(f"{row.name} ({row.island_different} of {row.compared} codes differ by 1)")

    def batch(
        self, expected: dict[str, Array], engines: dict[str, dict[str, Array]], *, again: bool = False
    ) -> None:
        """Compare what every engine computed with what was expected, tensor by tensor.

        Args:
            expected: By name.
            engines: The same of every engine.
            again: The elements are counted already, with another engine.
        """
        for name, row in self._rows.items():
            wrong = np.zeros((), bool)
            off_by_one = np.zeros((), bool)
            largest, seen = row.largest, set(row.engines)
            for engine, found in engines.items():
                if name not in found:
                    if engine in self._required[name]:
                        self.fail(f"{name} ({engine}: not computed)")
                    continue
                seen.add(engine)
                if np.array_equal(found[name], expected[name]):
                    continue
                if found[name].shape != expected[name].shape:
                    self.fail(
                        f"{name} ({engine}: shape {found[name].shape}, expected {expected[name].shape})"
                    )
                    continue
                gap = np.abs(found[name].astype(np.float64) - expected[name].astype(np.float64))
                gap = np.where(np.isnan(gap), np.inf, gap)
                largest = max(largest, float(gap.max()))
                bad = gap > 1 if row.kind == "island" else gap > 0
                off_by_one = off_by_one | (gap > 0) & ~bad
                wrong = wrong | bad
                if bad.any():
                    self.fail(f"{name} ({engine})")
            self._rows[name] = dataclasses.replace(
                row,
                engines=tuple(sorted(seen)),
                compared=row.compared + (expected[name].size if engines and not again else 0),
                different=row.different + int(wrong.sum()),
                island_different=row.island_different + int(off_by_one.sum()),
                largest=largest,
            )

    def qdq_batch(self, expected: dict[str, Array], qdq: dict[str, Array]) -> None:
        """Compare codes with those of the QDQ file; differences are counted and are no fault."""
        for name, codes in qdq.items():
            row = self._rows[name]
            if np.array_equal(codes, expected[name]):
                different, largest = 0, 0
            else:
                gap = np.abs(codes.astype(np.int16) - expected[name].astype(np.int16))
                different, largest = int((gap > 0).sum()), int(gap.max())
            self._rows[name] = dataclasses.replace(
                row,
                qdq_compared=row.qdq_compared + codes.size,
                qdq_different=row.qdq_different + different,
                qdq_largest=max(row.qdq_largest, largest),
            )

    def local_batch(
        self, expected: Mapping[str, Array], local: Mapping[str, Array], allowed: Mapping[str, float]
    ) -> None:
        """Compare codes with those of the QDQ file from the same inputs; what is not allowed is a fault."""
        for name, codes in local.items():
            row, different, largest = self._rows[name], 0, 0
            if codes.shape != expected[name].shape:
                self.fail(f"{name} (the QDQ file: shape {codes.shape}, here {expected[name].shape})")
                continue
            if not np.array_equal(codes, expected[name]):
                gap = np.abs(codes.astype(np.int16) - expected[name].astype(np.int16))
                different, largest = int((gap > 0).sum()), int(gap.max())
            if largest > allowed[name]:
                self.fail(
                    f"{name} ({largest} codes from what the QDQ file computes of the same inputs, "
                    f"allowed {allowed[name]:.0f})"
                )
            self._rows[name] = dataclasses.replace(
                row,
                local_compared=row.local_compared + codes.size,
                local_different=row.local_different + different,
                local_largest=max(row.local_largest, largest),
            )

    @property
    def complete(self) -> bool:
        """Whether every tensor was compared in all engines it requires, and there was anything to compare."""
        return bool(self._rows) and all(
            row.compared > 0 and self._required[row.name].issubset(row.engines) for row in self.rows
        )
