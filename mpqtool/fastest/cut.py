"""The best division of a network into integer and float units, as a minimum cut."""

from __future__ import annotations

__all__ = ["cheapest"]

import networkx as nx

from .costs import Costs

_QUANTIZE, _DEQUANTIZE = 0.9, 0.5
"""Nanoseconds per element at a border: Div and QuantizeLinear; Cast, Sub and Mul. Layout changes come on top:
``weight`` makes up for what differs from machine to machine."""
_NODE = 2.0
"""Microseconds that a border takes whatever its size."""


def cheapest(costs: Costs, *, weight: float = 1.0) -> frozenset[int]:
    """The units to leave in float so that the sum of all times is least.

    ``sum(time of each unit in its form) + weight * sum(time of each border that is crossed)``. A value is
    quantized or dequantized once, however many units use it. This is a minimum cut of a graph whose source
    stands for integers and whose sink for float.

    Args:
        costs: What was measured.
        weight: How much borders cost, against the figures of above.
    """
    graph = nx.DiGraph()
    integer, real = "integer", "float"
    for unit, (in_integers, in_float) in enumerate(zip(costs.integer, costs.real, strict=True)):
        graph.add_edge(integer, unit, capacity=in_float)  # cut where the unit is float
        graph.add_edge(unit, real, capacity=in_integers)
    for index, (maker, users, elements) in enumerate(costs.crossings):
        if maker is None:  # a graph input is there in float anyway
            continue
        for label, rate in (("dequantize", _DEQUANTIZE), ("quantize", _QUANTIZE)):
            border = (label, index)
            price = weight * (_NODE + rate * elements / 1000)
            # The border is on the side of the users that differ from the maker, if there is one.
            if label == "dequantize":
                graph.add_edge(maker, border, capacity=price)
                graph.add_edges_from((border, user) for user in users)
            else:
                graph.add_edge(border, maker, capacity=price)
                graph.add_edges_from((user, border) for user in users)
    _, (_, in_float) = nx.minimum_cut(graph, integer, real)
    return frozenset(unit for unit in in_float if isinstance(unit, int))
