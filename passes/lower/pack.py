"""Store weight codes as one stream of bits."""

from __future__ import annotations

__all__ = ["PackWeightsPass", "pack_codes", "unpack_codes"]

import logging
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import metadata
from ..constants import constant
from ..errors import ModelError
from ..plan import Grid
from ..values import array
from .build import zero_point
from .unpack import UNPACK, unpack_function

logger = logging.getLogger(__name__)


class PackWeightsPass(ir.passes.InPlacePass):
    """Replace the int8 codes of a weight with ``Unpack(stream, widths, shape, zero)``.

    The stream holds the kernels in order, each weight in as many bits as its kernel has, least
    significant bit first. ``Unpack`` is a model-local function of standard operators, so that
    every runtime can read the file; ONNX Runtime computes it once, while loading.

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

    The unsigned field of a code is ``(code + 2**b - 1) / 2`` on the odd grid below 8 bits, else
    ``code + 2**(b - 1)``; a kernel of 0 bits takes none.
    """
    stream = [np.zeros(0, np.uint8)]
    for kernel, width in zip(np.asarray(codes, np.int64), bits, strict=True):
        if width == 0:
            continue
        odd = grid is Grid.ODD and width < 8
        field = (kernel.ravel() + (1 << width) - 1) // 2 if odd else kernel.ravel() + (1 << (width - 1))
        stream.append((field[:, None] >> np.arange(width) & 1).astype(np.uint8).ravel())
    return np.packbits(np.concatenate(stream), bitorder="little")


def unpack_codes(
    data: NDArray[np.uint8], widths: NDArray[np.uint8], shape: Sequence[int], grid: Grid
) -> NDArray[np.int8]:
    """The codes of a bit stream; ``pack_codes`` backwards, written apart from the ONNX function."""
    kernels, size = int(shape[0]), int(np.prod(shape[1:], dtype=np.int64))
    stream = np.unpackbits(data, bitorder="little").astype(np.int64)
    codes, start = np.zeros((kernels, size), np.int64), 0
    for kernel, width in enumerate(np.broadcast_to(widths, (kernels,)).astype(int)):
        field = stream[start : start + size * width].reshape(size, width) @ (1 << np.arange(width))
        start += size * width
        if width and grid is Grid.ODD and width < 8:
            codes[kernel] = 2 * field - (2**width - 1)
        elif width:
            codes[kernel] = field - 2 ** (width - 1)
    return codes.reshape(tuple(shape)).astype(np.int8)


def _pack(model: ir.Model, node: ir.Node) -> bool:
    noted = node.metadata_props.get(metadata.WEIGHT_BITS)
    if noted is None or len(node.inputs) < 6:
        return False
    value = node.inputs[3]
    stored, offset = array(value), array(node.inputs[5])
    bits = metadata.from_digits(noted)
    if value is None or stored is None or offset is None or set(bits) == {8}:
        return False
    grid = Grid(node.metadata_props[metadata.GRID])
    codes_of = stored.astype(np.int64) - int(offset.reshape(-1)[0])
    data = pack_codes(codes_of, bits, grid)
    if not np.array_equal(unpack_codes(data, np.array(bits, np.uint8), stored.shape, grid), codes_of):
        raise ModelError(
            f"Cannot pack weight {node.metadata_props[metadata.WEIGHT]!r}: it holds codes that kernels of "
            f"the noted widths cannot have on the {grid} grid. The file was changed by hand; make it again."
        )
    widths = np.array(bits[:1] if len(set(bits)) == 1 else bits, np.uint8)
    shape = np.array(stored.shape, np.int16 if max(stored.shape) < 2**15 else np.int64)
    if data.nbytes + widths.nbytes + shape.nbytes >= stored.nbytes:
        return False
    graph, name = model.graph, node.metadata_props[metadata.WEIGHT]
    inputs = [
        constant(graph, f"{name}.packed", data),
        constant(graph, f"{name}.widths", widths),
        constant(graph, "shape." + "x".join(map(str, stored.shape)), shape),
        zero_point(graph, offset.reshape(-1)[0]),
    ]
    unpack = ir.node(UNPACK[grid], inputs, domain=metadata.DOMAIN, name=f"{value.name}.unpack")
    codes = unpack.outputs[0]
    codes.type, codes.shape = value.type, value.shape
    value_name = str(value.name)
    value.replace_all_uses_with(codes)
    del graph.initializers[value_name]
    codes.name = value_name
    graph.insert_before(next(iter(graph)), unpack)
    function = unpack_function(grid)
    model.functions.setdefault(function.identifier(), function)
    graph.opset_imports.setdefault(metadata.DOMAIN, 1)
    return True
