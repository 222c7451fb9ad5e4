"""Store weight codes as streams of bits."""

from __future__ import annotations

__all__ = ["PackWeightsPass", "arrange", "codes_of", "fields_of", "pack_fields", "unpack_fields"]

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import metadata
from ..constants import constant
from ..errors import ModelError
from ..plan import Grid
from ..values import array, is_op, unused_name
from .unpack import ARRANGE, FIELDS, UNPACK, unpack_functions

logger = logging.getLogger(__name__)

_UNSIGNED_ZERO = 128
_KERNELS = "kernels"
"""The streams that say which kernels have which width."""


class PackWeightsPass(ir.passes.InPlacePass):
    """Replace the codes of all weights with streams of bits, one for every width that kernels have.

    A stream holds the kernels of one width of all weights, one behind the other, each code in ``width``
    bits. ``Unpack(data, width, count, shift)`` expands it, and Split cuts it up again. A weight whose kernels
    differ in width is put together from several streams, sorted by width, and ``Arrange(codes, kernels,
    shape)`` brings the kernels into order: ``kernels`` has for each, in one to four bits, which of the widths
    of the weight it has; these are streams too. So the number of nodes grows by a few for each weight,
    which is what loading takes time for. The functions are model-local, of standard operators, so that every
    runtime can read the file; ONNX Runtime computes all of it once, while loading.

    A weight is left alone if its widths are not noted, all of them are 8, or what is stored would not be
    smaller than the codes.

    Raises:
        ModelError: A code is not on the grid that is noted for its kernel.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        weights = list({id(w.value): w for w in map(_weight, model.graph) if w is not None}.values())
        if not weights:
            return ir.passes.PassResult(model, modified=False)
        streams: dict[_Key, list[NDArray[Any]]] = {}
        for weight in weights:
            for key, numbers in weight.parts():
                streams.setdefault(key, []).append(numbers)
        nodes: list[ir.Node] = []
        parts = {key: iter(_unpack(model.graph, key, streams[key], nodes)) for key in sorted(streams)}
        for weight in weights:
            values = {key: next(parts[key]) for key, _ in weight.parts()}
            _put_together(model.graph, weight, values, nodes)
        model.graph.insert_before(next(iter(model.graph)), nodes)
        for function in unpack_functions({node.op_type for node in nodes if node.domain}):
            model.functions.setdefault(function.identifier(), function)
        model.graph.opset_imports[metadata.DOMAIN] = metadata.PACKED
        logger.info("Packed %d weights", len(weights))
        return ir.passes.PassResult(model, modified=True)


class _Key(NamedTuple):
    """Which stream: what it holds, in how many bits, and how far codes are shifted to the left behind it."""

    kind: str
    width: int
    shift: int = 0


@dataclasses.dataclass(frozen=True)
class _Weight:
    """Codes to be packed: ``codes`` without their zero point, ``(kernels, elements)``."""

    value: ir.Value
    codes: NDArray[np.int16]
    bits: NDArray[np.int64]
    grid: Grid
    shape: tuple[int, ...]
    is_unsigned: bool

    @property
    def widths(self) -> list[int]:
        """The different widths."""
        return sorted(set(self.bits.tolist()))

    @property
    def kernels(self) -> NDArray[np.uint8]:
        """Which of ``widths`` each kernel has."""
        return np.searchsorted(self.widths, self.bits).astype(np.uint8)

    def shift(self, width: int) -> int | None:
        """How far the codes of kernels of a width are shifted, at least; None: on no such grid."""
        codes = self.codes[self.bits == width]
        shifts = (s for s in range(9 - width) if not np.any(codes % (1 << s)))
        return next((s for s in shifts if _are_on_grid(codes >> s, width, self.grid)), None)

    def parts(self) -> Iterator[tuple[_Key, NDArray[Any]]]:
        """What it adds to which stream: codes by width, and the widths of the kernels, as fields."""
        for width in self.widths:
            if width:
                kind = Grid.ODD if self.grid is Grid.ODD and width < 8 else Grid.SIGNED  # also of FULL
                shift = self.shift(width)
                assert shift is not None  # _weight has looked
                codes = self.codes[self.bits == width].ravel() >> shift
                yield _Key(kind.value, width, shift), fields_of(codes, width, self.grid)
        if len(self.widths) > 1:
            yield _Key(_KERNELS, (len(self.widths) - 1).bit_length()), self.kernels


def fields_of(codes: NDArray[np.integer[Any]], width: int, grid: Grid) -> NDArray[np.uint8]:
    """The unsigned field of each code.

    ``(code + 2**b - 1) / 2`` on the odd grid below 8 bits, else ``code + 2**(b - 1)``.
    """
    wide, odd = codes.astype(np.int16), grid is Grid.ODD and width < 8
    fields = (wide + (1 << width) - 1) // 2 if odd else wide + (1 << (width - 1))
    return fields.astype(np.uint8)


def codes_of(fields: NDArray[np.integer[Any]], width: int, grid: Grid) -> NDArray[np.int8]:
    """``fields_of`` backwards."""
    wide, odd = fields.astype(np.int16), grid is Grid.ODD and width < 8
    codes: NDArray[np.int16] = 2 * wide - (2**width - 1) if odd else wide - 2 ** (width - 1)
    return codes.astype(np.int8)


def pack_fields(fields: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Unsigned integers of ``width`` bits, least significant bit first, filled up to groups of 8."""
    bits = np.unpackbits(fields[:, None], axis=1, count=width, bitorder="little").ravel()
    return np.packbits(np.pad(bits, (0, -len(bits) % (8 * width))), bitorder="little")


def unpack_fields(data: NDArray[np.uint8], width: int, count: int) -> NDArray[np.uint8]:
    """``pack_fields`` backwards."""
    bits = np.unpackbits(data, bitorder="little")[: count * width].reshape(count, width)
    return np.packbits(bits, axis=1, bitorder="little")[:, 0]


def arrange(codes: NDArray[np.int8], kernels: NDArray[np.uint8], shape: Sequence[int]) -> NDArray[np.int8]:
    """Kernels that are sorted by width, in their own order.

    Args:
        codes: Those of all kernels, flat.
        kernels: Rank of the width of each kernel.
        shape: Of the weight.
    """
    rows = codes.reshape(len(kernels), -1)
    result = np.empty_like(rows)
    result[np.argsort(kernels, kind="stable")] = rows
    return result.reshape(tuple(shape))


def _weight(node: ir.Node) -> _Weight | None:
    """The weight of a node, if it is to be packed."""
    noted = node.metadata_props.get(metadata.WEIGHT_BITS)
    alone = is_op(node, "Cast", "Transpose")  # of KeepFloatPass, and of targets that have other operators
    at = 0 if alone else 1 if is_op(node, "ConvInteger") else 3
    if noted is None or (len(node.inputs) < at + 3 and not alone):
        return None
    value = node.inputs[at]
    stored, offset = array(value), _own_offset(value) if alone else array(node.inputs[at + 2])
    bits = np.array(metadata.from_digits(noted))
    if value is None or stored is None or offset is None or set(bits.tolist()) == {8}:
        return None
    if np.any(offset != offset.reshape(-1)[0]):  # one for each kernel, as other tools may have
        return None
    zero = int(offset.reshape(-1)[0])
    flat = stored.reshape(len(stored), -1).astype(np.int16) - np.int16(zero)
    grid = Grid(node.metadata_props[metadata.GRID])
    weight = _Weight(value, flat, bits, grid, stored.shape, zero == _UNSIGNED_ZERO)
    if any(weight.shift(width) is None for width in weight.widths):
        raise ModelError(
            f"Cannot pack weight {node.metadata_props[metadata.WEIGHT]!r}: it holds codes that kernels of "
            f"the noted widths cannot have on the {grid} grid. The file was changed by hand; make it again."
        )
    needed = sum(-(-len(numbers) * key.width // 8) + 8 for key, numbers in weight.parts())
    return weight if needed + 8 * stored.ndim < stored.nbytes else None


def _are_on_grid(codes: NDArray[np.int16], width: int, grid: Grid) -> bool:
    if width == 0:
        return not codes.any()
    kept = fields_of(codes, width, grid) & ((1 << width) - 1)
    return np.array_equal(codes_of(kept, width, grid), codes)


def _unpack(
    graph: ir.Graph, key: _Key, parts: Sequence[NDArray[Any]], nodes: list[ir.Node]
) -> Sequence[ir.Value]:
    """Write a stream into the graph, and the nodes that expand it and cut it into its parts."""
    kind, width, shift = key
    fields = np.concatenate(parts)
    name = f"{kind}{width}" + (f".{shift}" if shift else "")
    if width == 8:  # whole bytes: int8 as they are
        whole = constant(graph, f"{name}.packed", codes_of(fields, 8, Grid.SIGNED))
    else:
        function = FIELDS if kind == _KERNELS else UNPACK[Grid(kind)]
        inputs = [
            constant(graph, f"{name}.packed", pack_fields(fields, width)),
            constant(graph, f"width{width}", np.array([width], np.uint8)),
            constant(graph, f"fields{len(fields)}", np.array([len(fields)], _small(len(fields)))),
        ]
        if kind != _KERNELS:
            inputs.append(constant(graph, f"shift{shift}", np.array([shift], np.uint8)))
        dtype = ir.DataType.UINT8 if kind == _KERNELS else ir.DataType.INT8
        whole = _node(graph, nodes, function, inputs, name, dtype, domain=metadata.DOMAIN)
    if len(parts) == 1:
        return [whole]
    sizes = constant(graph, f"{name}.sizes", np.array([len(part) for part in parts]))
    split = ir.node("Split", [whole, sizes], {"axis": 0}, num_outputs=len(parts), name=f"{name}.split")
    nodes.append(split)
    for index, output in enumerate(split.outputs):
        output.name = unused_name(graph, f"{name}.{index}")
        output.type = whole.type
    return split.outputs


def _put_together(
    graph: ir.Graph, weight: _Weight, values: dict[_Key, ir.Value], nodes: list[ir.Node]
) -> None:
    """Write the nodes that make a weight of its parts, and let them take its place."""
    old, int8 = weight.value, ir.DataType.INT8
    name = str(old.name)
    found = [value for key, value in values.items() if key.kind != _KERNELS]
    if 0 in weight.widths:
        count = int((weight.bits == 0).sum()) * weight.codes.shape[1]
        shape = constant(graph, f"count{count}", np.array([count]))
        zero = ir.tensor(np.zeros(1, np.int8))
        found.insert(0, _node(graph, nodes, "ConstantOfShape", [shape], f"{name}.zeros", int8, value=zero))
    codes = (
        found[0] if len(found) == 1 else _node(graph, nodes, "Concat", found, f"{name}.sorted", int8, axis=0)
    )
    kernels = next((value for key, value in values.items() if key.kind == _KERNELS), None)
    named = "x".join(map(str, weight.shape))
    if kernels is None:
        shape = constant(graph, f"shape.{named}", np.array(weight.shape))
        codes = _node(graph, nodes, "Reshape", [codes, shape], f"{name}.shaped", int8)
    else:
        sizes = constant(graph, f"sizes.{named}", np.array(weight.shape, _small(max(weight.shape))))
        inputs = [codes, kernels, sizes]
        codes = _node(graph, nodes, ARRANGE, inputs, f"{name}.arranged", int8, domain=metadata.DOMAIN)
    if weight.is_unsigned:  # the byte of code + 128 is that of the code with its first bit turned over
        u8 = ir.DataType.UINT8
        codes = _node(graph, nodes, "Cast", [codes], f"{name}.bytes", u8, to=u8.value)
        first_bit = constant(graph, "byte128", np.array(_UNSIGNED_ZERO, np.uint8))
        codes = _node(graph, nodes, "BitwiseXor", [codes, first_bit], f"{name}.unsigned", u8)
    codes.shape = old.shape
    old.replace_all_uses_with(codes)
    del graph.initializers[name]
    codes.name = name


def _node(
    graph: ir.Graph, nodes: list[ir.Node], op: str, inputs: Sequence[ir.Value], name: str, dtype: ir.DataType,
    *, domain: str = "", **attributes: Any,
) -> ir.Value:  # fmt: skip
    node = ir.node(op, inputs, attributes, domain=domain)
    value = node.outputs[0]
    value.name = node.name = unused_name(graph, name)
    value.type = ir.TensorType(dtype)
    nodes.append(node)
    return value


def _small(number: int) -> type[np.signedinteger[Any]]:
    """A type that holds the number in few bytes; what is read once is cast then."""
    return np.int16 if number < 2**15 else np.int64


def _own_offset(value: ir.Value | None) -> NDArray[np.generic]:
    """The zero point of codes that no operator says, by their type: see ``GuardSaturationPass``."""
    unsigned = value is not None and value.dtype is ir.DataType.UINT8
    return np.array([_UNSIGNED_ZERO if unsigned else 0], np.uint8)
