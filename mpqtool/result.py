"""What a run says about itself: the schema of ``result.json``, and the handle that ``quantize`` gives back.

The keys are a contract: they are added to, never renamed. What was not measured is null.
"""

from __future__ import annotations

__all__ = [
    "SYNTHETIC",
    "Bits",
    "Bytes",
    "Cost",
    "DataInfo",
    "Island",
    "LayerBits",
    "Metric",
    "ModelInfo",
    "Nodes",
    "Result",
    "ResultFile",
    "Times",
    "Verification",
]

import dataclasses
import json
import os
import pathlib
from typing import Any, Literal

import pydantic

from .files import write_json

# Named, because a key of the contract is "float", which hides the type inside its class.
Number = float | None
Count = int | None


SYNTHETIC = "_synthetic"
"""What is measured on held-out inputs that are made up has this behind its name in ``history``."""


class _Part(pydantic.BaseModel):
    # A wrong key is our own mistake when writing; from_json forgives the keys of a later version.
    model_config = pydantic.ConfigDict(extra="forbid", validate_assignment=True)


class ModelInfo(_Part):
    """The float model: where it was read, and the digest of that file."""

    path: str
    sha256: str


class DataInfo(_Part):
    """The samples: counts of both splits, and what the training learned from."""

    spec: str | None = None
    train: Count = None
    test: Count = None
    labels: bool = False
    mode: Literal["labels", "distill", "data-free"]


class Metric(_Part):
    """One number for each form of the model, on the test split; top1 and agreement in percent.

    ``name`` is ``top1``, ``agreement``, ``sqnr_db``, or where a function of the user is.
    """

    name: str | None = None
    float: Number = None
    fake_quant: Number = None
    qdq: Number = None
    integer: Number = None


class LayerBits(_Part):
    """One layer: ``weight_bits`` maps a width to the number of kernels that have it.

    The last four are of layers in integers; see ``runtime.inspect``.
    """

    name: str
    op: str
    macs: Count = None
    weights: Count = None
    weight_bits: dict[str, int] = {}
    activation_bits: Count = None
    weights_removed: Count = None
    accumulator_max: Count = None
    accumulator_bits: Count = None
    saturates_without_vnni: bool | None = None


class Bits(_Part):
    """Mean bits of a weight and of an activation, and the widths layer by layer."""

    weights_eff: Number = None
    activations_eff: Number = None
    layers: list[LayerBits] = []


class Cost(_Part):
    """Cost of one inference; formulas in ``mpqtool.passes.cost``."""

    macs: Number = None
    bitops: Number = None
    c_c: Number = None
    wcr: Number = None
    wcr_true: Number = None


class Bytes(_Part):
    """Sizes of the float and the integer file; bytes of weights as the bit-widths owe them, and as stored."""

    float: Count = None
    integer: Count = None
    weights_owed: Count = None
    weights_stored: Count = None


class Verification(_Part):
    """Whether torch, numpy and ONNX Runtime gave the same integers, and how far QDQ is from them.

    Those with ``local`` are of layers on the same inputs; see ``runtime.local``. ``real_unsettled`` counts
    outputs that are further off than float32 usually is, see ``runtime.verify``.
    """

    passed: bool | None = None
    provider: str | None = None
    codes_compared: Count = None
    codes_different: Count = None
    qdq_max_lsb: Count = None
    qdq_rate: Number = None
    top1_agreement: Number = None
    local_max_lsb: Count = None
    local_rate: Number = None
    local_left_out: Count = None
    real_unsettled: Count = None


class Island(_Part):
    """A float operator left between integer ones, and why."""

    name: str
    op: str
    reason: str


class Nodes(_Part):
    """What the integer file computes in integers, and what it does not."""

    integer: Count = None
    float: Count = None
    mac_share_integer: Number = None
    islands: list[Island] = []


class Times(_Part):
    """Seconds, in all and by stage."""

    model_config = pydantic.ConfigDict(extra="forbid", validate_assignment=True, populate_by_name=True)

    total: Number = None
    import_: Number = pydantic.Field(default=None, alias="import")
    train: Number = None
    lower: Number = None
    verify: Number = None


class ResultFile(_Part):
    """``result.json``, key by key."""

    model_config = pydantic.ConfigDict(extra="forbid", validate_assignment=True, populate_by_name=True)

    schema_: Literal[1] = pydantic.Field(default=1, alias="schema")
    method: str
    settings: dict[str, Any] = {}
    seed: Count = None
    model: ModelInfo
    data: DataInfo
    metric: Metric = pydantic.Field(default_factory=Metric)
    bits: Bits = pydantic.Field(default_factory=Bits)
    cost: Cost = pydantic.Field(default_factory=Cost)
    bytes: Bytes = pydantic.Field(default_factory=Bytes)
    verify: Verification = pydantic.Field(default_factory=Verification)
    nodes: Nodes = pydantic.Field(default_factory=Nodes)
    history: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    budgets: dict[str, Any] = {}
    time_s: Times = pydantic.Field(default_factory=Times)

    def to_dict(self) -> dict[str, Any]:
        """Give the content of the file: plain JSON values, keys in the order of the schema, NaN as null."""
        content: dict[str, Any] = json.loads(self.model_dump_json(by_alias=True))
        return content

    def write(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Write the file, whole or not at all, and return its content."""
        content = self.to_dict()
        write_json(path, content)
        return content

    @classmethod
    def from_json(cls, text: str) -> ResultFile:
        """Read a file of this or a later version: unknown keys are dropped, missing numbers are null.

        Raises:
            pydantic.ValidationError: It is not JSON, or a value has the wrong type.
        """
        return cls.model_validate_json(text, extra="ignore")


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run gave.

    Attributes:
        path: The run directory.
        result: The content of its ``result.json``.
    """

    path: pathlib.Path
    result: dict[str, Any]
