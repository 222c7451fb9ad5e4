"""Store weight codes as one stream of bits."""

from __future__ import annotations

__all__ = ["PackWeightsPass", "pack_codes", "pack_widths", "unpack_codes", "unpack_widths"]

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import metadata
from ..constants import constant
from ..errors import ModelError
from ..plan import Grid
from ..values import array, is_op
from .build import zero_point
from .unpack import UNPACK, UNPACK_MIXED, unpack_functions

logger = logging.getLogger(__name__)


class PackWeightsPass(ir.passes.InPlacePass):
    """Replace the int8 codes of a weight with ``Unpack(data, width, shape, zero)``.

    The data hold each weight in as many bits as its kernel has. Where kernels differ in width it is
    ``UnpackMixed(data, widths, kernels, shape, zero)``: ``widths`` are the different ones, and ``kernels``
    has for each kernel, in one to four bits, which of them it is. Both are model-local functions of
    standard operators, so that every runtime can read the file; ONNX Runtime computes them once, while
    loading.

    A weight is left alone if its widths are not noted, all of them are 8, or the stream with what
    describes it is not smaller than the codes.

    Raises:
        ModelError: A code is not on the grid that is noted for its kernel.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        packed = sum(_pack(model, node) for node in list(model.graph))
        if packed:
            logger.info("Packed %d weights", packed)
        return ir.passes.PassResult(model, modified=bool(packed))


def pack_codes(codes: NDArray[np.generic], bits: Sequence[int], grid: Grid) -> NDArray[np.uint8]:
    """The bit stream of weight codes ``(kernels, ...)``.

    The kernels are sorted by width, those of one width stay in order; those of 0 bits take none. Each
    width begins anew and fills whole groups of 8 fields, ``width`` bytes each. The unsigned field of a
    code is ``(code + 2**b - 1) / 2`` on the odd grid below 8 bits, else ``code + 2**(b - 1)``.
    """
    integers, widths = np.asarray(codes, np.int16), np.array(bits)
    streams = [np.zeros(0, np.uint8)]
    for width in sorted(set(bits) - {0}):
        chosen = integers[widths == width].ravel()
        odd = grid is Grid.ODD and width < 8
        field = (chosen + (1 << width) - 1) // 2 if odd else chosen + (1 << (width - 1))
        streams.append(pack_fields(field, width))
    return np.concatenate(streams)


def unpack_codes(
    data: NDArray[np.uint8], bits: NDArray[np.integer[Any]], shape: Sequence[int], grid: Grid
) -> NDArray[np.int8]:
    """The codes of a bit stream; ``pack_codes`` backwards, written apart from the ONNX function.

    Args:
        data: The stream.
        bits: One width per kernel, or one for all.
        shape: Of the weight.
        grid: Which integers the codes are.
    """
    kernels, size = int(shape[0]), int(np.prod(shape[1:], dtype=np.int64))
    widths = np.broadcast_to(bits, (kernels,)).astype(int)
    codes, start = np.zeros((kernels, size), np.int16), 0
    for width in sorted(set(widths.tolist()) - {0}):
        chosen = np.flatnonzero(widths == width)
        length = -(-len(chosen) * size // 8) * width
        fields = unpack_fields(data[start : start + length], width, len(chosen) * size)
        codes[chosen] = fields.reshape(len(chosen), size)
        odd = grid is Grid.ODD and width < 8
        codes[chosen] = 2 * codes[chosen] - (2**width - 1) if odd else codes[chosen] - 2 ** (width - 1)
        start += length
    return codes.reshape(tuple(shape)).astype(np.int8)


def pack_fields(fields: NDArray[np.integer[Any]], width: int) -> NDArray[np.uint8]:
    """Unsigned integers of ``width`` bits, least significant bit first, filled up to groups of 8."""
    bits = np.unpackbits(fields.astype(np.uint8)[:, None], axis=1, count=width, bitorder="little").ravel()
    return np.packbits(np.pad(bits, (0, -len(bits) % (8 * max(width, 1)))), bitorder="little")


def unpack_fields(data: NDArray[np.uint8], width: int, count: int) -> NDArray[np.uint8]:
    """``pack_fields`` backwards."""
    if width == 0:
        return np.zeros(count, np.uint8)
    bits = np.unpackbits(data, bitorder="little")[: count * width].reshape(count, width)
    return np.packbits(bits, axis=1, bitorder="little")[:, 0]


def pack_widths(bits: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The different widths, and for each kernel which of them it has, as a stream of fields."""
    # Fields of 0 bits could not be counted out again: if there are no others, 1 bit is listed beside.
    widths = np.unique(np.array(bits if any(bits) else [*bits, 1], np.uint8))
    return widths, pack_fields(np.searchsorted(widths, bits), (len(widths) - 1).bit_length())


def unpack_widths(widths: NDArray[np.uint8], kernels: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """The width of each kernel; ``pack_widths`` backwards."""
    return widths[unpack_fields(kernels, (len(widths) - 1).bit_length(), count)]


def _pack(model: ir.Model, node: ir.Node) -> bool:
    noted = node.metadata_props.get(metadata.WEIGHT_BITS)
    alone = is_op(node, "Cast", "Transpose")  # of KeepFloatPass, and of targets that have other operators
    if noted is None or (len(node.inputs) < 6 and not alone):
        return False
    value = node.inputs[0 if alone else 3]
    stored, offset = array(value), _own_offset(value) if alone else array(node.inputs[5])
    bits = metadata.from_digits(noted)
    if value is None or stored is None or offset is None or set(bits) == {8}:
        return False
    grid = Grid(node.metadata_props[metadata.GRID])
    codes_of = stored.astype(np.int64) - int(offset.reshape(-1)[0])
    data = pack_codes(codes_of, bits, grid)
    if not np.array_equal(unpack_codes(data, np.array(bits), stored.shape, grid), codes_of):
        raise ModelError(
            f"Cannot pack weight {node.metadata_props[metadata.WEIGHT]!r}: it holds codes that kernels of "
            f"the noted widths cannot have on the {grid} grid. The file was changed by hand; make it again."
        )
    widths, kernels = pack_widths(bits)
    shape = np.array(stored.shape, np.int16 if max(stored.shape) < 2**15 else np.int64)
    if data.nbytes + widths.nbytes + kernels.nbytes + shape.nbytes >= stored.nbytes:
        return False
    graph, name = model.graph, node.metadata_props[metadata.WEIGHT]
    inputs = [constant(graph, f"{name}.packed", data), constant(graph, f"{name}.widths", widths)]
    if len(widths) > 1:
        inputs.append(constant(graph, f"{name}.kernels", kernels))
    inputs.append(constant(graph, "shape." + "x".join(map(str, stored.shape)), shape))
    inputs.append(zero_point(graph, offset.reshape(-1)[0]))
    function = (UNPACK_MIXED if len(widths) > 1 else UNPACK)[grid]
    unpack = ir.node(function, inputs, domain=metadata.DOMAIN, name=f"{value.name}.unpack")
    codes = unpack.outputs[0]
    codes.type, codes.shape = value.type, value.shape
    value_name = str(value.name)
    value.replace_all_uses_with(codes)
    del graph.initializers[value_name]
    codes.name = value_name
    graph.insert_before(next(iter(graph)), unpack)
    for needed in unpack_functions(function):
        model.functions.setdefault(needed.identifier(), needed)
    graph.opset_imports.setdefault(metadata.DOMAIN, 1)
    return True


def _own_offset(value: ir.Value | None) -> NDArray[np.generic]:
    """The zero point of codes that no operator says, by their type: see ``GuardSaturationPass``."""
    unsigned = value is not None and value.dtype is ir.DataType.UINT8
    return np.array([128], np.uint8) if unsigned else np.zeros(1, np.int8)
