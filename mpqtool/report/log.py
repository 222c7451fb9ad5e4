"""What the page takes from ``log.jsonl``."""

from __future__ import annotations

__all__ = ["Frozen", "Log", "Widths", "read"]

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pydantic


class Widths(pydantic.BaseModel):
    """One update of learned widths; None where a kind has none to learn.

    Attributes:
        step: Steps of the optimizer since the search began.
        weights: Mean relaxed width.
        activations: The same.
        weight_bits: Mean width in use, over weights.
        activation_bits: The same, over elements.
        loss: Task loss of the step.
        weight_oscillations: Most of any variable.
        activation_oscillations: The same.
    """

    step: int
    weights: float | None = None
    activations: float | None = None
    weight_bits: float | None = None
    activation_bits: float | None = None
    loss: float | None = None
    weight_oscillations: int | None = None
    activation_oscillations: int | None = None


class Frozen(pydantic.BaseModel):
    """A width that stopped.

    Attributes:
        step: As in ``Widths``.
        granularity: What has it: ``network``, ``layer`` or ``kernel``.
        variable: ``weights`` or ``activations`` of the network, or the name of one tensor or kernel.
        kind: Of what it is the width.
        bits: Where it stopped.
        reason: The rule that stopped it.
    """

    step: int
    granularity: str
    variable: str
    kind: Literal["weights", "activations"]
    bits: int
    reason: str

    @property
    def is_shared(self) -> bool:
        """Whether the whole network has this width."""
        return self.granularity == "network"


@dataclasses.dataclass(frozen=True)
class Log:
    """What was warned of, each text once; and how the widths went, in order."""

    warnings: Sequence[str] = ()
    widths: Sequence[Widths] = ()
    frozen: Sequence[Frozen] = ()


_Events = dict[tuple[int, str | None], Widths | Frozen]
"""By step and the variable that stopped; steps only grow."""


def read(path: pathlib.Path) -> Log:
    """Read a log. Lines that are no events of ours are left out; no file is an empty log."""
    warnings: dict[str, None] = {}
    events: _Events = {}
    for record in _records(path):
        if record.get("event") == "warning":
            warnings[str(record.get("text"))] = None
        elif (event := _event(record)) is not None:
            _add(events, event)
    return Log(
        list(warnings),
        [event for event in events.values() if isinstance(event, Widths)],
        [event for event in events.values() if isinstance(event, Frozen)],
    )


def _records(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # what a killed run left of its last line
        if isinstance(record, dict):
            yield record


def _event(record: dict[str, Any]) -> Widths | Frozen | None:
    try:
        if record.get("event") == "widths":
            return Widths.model_validate(record)
        if record.get("event") == "frozen":
            return Frozen.model_validate(record)
    except pydantic.ValidationError:
        pass  # of another version
    return None


def _add(events: _Events, event: Widths | Frozen) -> None:
    """Add an event. A run that goes on from a checkpoint begins some steps back: what was there gives way."""
    if events and event.step < _last_step(events):
        while events and event.step <= _last_step(events):
            events.popitem()
    events[event.step, event.variable if isinstance(event, Frozen) else None] = event


def _last_step(events: _Events) -> int:
    return next(reversed(events))[0]
