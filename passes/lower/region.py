"""Follow the output channels of an integer layer to the layers that sum over them."""

from __future__ import annotations

__all__ = ["Region", "follow"]

import dataclasses

import numpy as np
import onnx_ir as ir

from .channels import UNKNOWN, Channels, Layer, channel_count, looked_up, read, through


@dataclasses.dataclass(frozen=True)
class Region:
    """What becomes of the codes of a layer.

    Attributes:
        values: All that hold its channels, from its own codes on.
        depthwise: Convolutions between these.
        shaped: Reshape nodes behind tables, whose results are among the values.
        sinks: Layers that sum over the channels, with what they take in.
    """

    values: dict[ir.Value, Channels]
    depthwise: list[Layer]
    shaped: list[ir.Node]
    sinks: list[tuple[Layer, Channels]]


def follow(layer: Layer) -> Region | None:
    """The region of a layer; None where its channels go anywhere else, or come in groups."""
    if layer.group != 1 or layer.multiplier is None:
        return None
    index = np.arange(len(layer.weight))[:, None]
    empty = ~layer.weight.reshape(len(index), -1).any(axis=1)
    first = Channels(index, np.where(empty, layer.codes(layer.bias), UNKNOWN))
    region = Region({}, [], [], [])
    waiting = [(layer.node.outputs[0], first)]
    while waiting:
        value, channels = waiting.pop()
        if value in region.values or value.is_graph_output() or channel_count(value) is None:
            return None  # in two places of a Concat, shown, or not known
        region.values[value] = channels
        for use in value.uses():
            if use.node.graph is not layer.node.graph:
                return None  # that of an If or Loop
            user = read(use.node) if use.idx == 0 else None
            if user is not None and user.group == 1:
                region.sinks.append((user, channels))
                continue
            found = looked_up(use.node, value)
            if found is not None:
                table, shaped = found
                region.shaped.append(shaped)
                waiting.append((shaped.outputs[0], channels.with_codes(table[channels.codes])))
                continue
            after = through(use.node, user, value, channels)
            if after is None:
                return None
            if user is not None:
                region.depthwise.append(user)
            waiting.append((use.node.outputs[0], after))
    return region if region.sinks else None
