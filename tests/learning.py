"""Train an imported graph for one step, and put the result back into its ONNX graph."""

from __future__ import annotations

__all__ = ["assert_learns", "assert_written_back", "run_torch"]

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import torch
from compare import assert_equivalent, run_onnx
from torch import Tensor, nn

from mpqtool.importer import write_parameters


def run_torch(module: nn.Module, model: ir.Model, *inputs: Tensor) -> dict[str, np.ndarray]:
    """The outputs of an imported graph in evaluation mode, by the names they have in the ONNX graph."""
    with torch.no_grad():
        outputs = module.eval()(*inputs)
    names = [str(value.name) for value in model.graph.outputs]
    return {name: output.numpy() for name, output in zip(names, outputs, strict=True)}


def assert_learns(module: nn.Module, loss: Callable[[], Tensor], *, lr: float) -> None:
    """Fail unless gradients reach every weight, and one step of Adam lowers the loss on the batch.

    Args:
        module: In the mode it is to be trained in.
        loss: Of the batch.
        lr: Learning rate, which is how far Adam's first step moves every weight.
    """
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    first = loss()
    first.backward()
    silent = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)
    optimizer.step()
    assert [name for name, p in module.named_parameters() if torch.equal(p, before[name])] == []
    with torch.no_grad():
        assert loss() < first


def assert_written_back(module: nn.Module, model: ir.Model, *inputs: Tensor, relative: float) -> None:
    """Write parameters and buffers into the ONNX graph by name; ONNX Runtime gives what torch gives.

    Args:
        module: What ``import_graph`` made of the model, trained.
        model: The model; changed.
        *inputs: Inputs in graph order.
        relative: Tolerance, as a part of the largest number of an output.
    """
    state = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
    changed = [
        name
        for name, array in state.items()
        if not np.array_equal(array, model.graph.initializers[name].const_value.numpy())  # type: ignore[union-attr]
    ]
    assert set(changed) >= {name for name, p in module.named_parameters() if p.grad is not None}
    assert write_parameters(model, state) == len(state)
    made = run_torch(module, model, *inputs)
    feeds = {str(v.name): x.numpy() for v, x in zip(model.graph.inputs, inputs, strict=True)}
    found = run_onnx(model, feeds)
    for name, values in made.items():
        atol = relative * float(np.abs(values).max())
        assert_equivalent({name: values}, {name: found[name]}, rtol=0, atol=atol)
