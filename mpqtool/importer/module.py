"""The module that ``import_graph`` gives: tensors under their ONNX names, whatever these are."""

from __future__ import annotations

__all__ = ["ImportedGraph"]

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn


class ImportedGraph(fx.GraphModule):
    """A graph module whose parameters and buffers have the names of ONNX initializers.

    ``torch.fx`` writes the target of a ``get_attr`` node into Python code, each dot an attribute. An
    ONNX name may be any text: ``conv.weight`` beside ``conv.weight.bias``, ``training``, a quote. So the
    graph reads attributes ``initializer_0``, ``initializer_1``, ..., and the tensors are kept in one
    flat table by their ONNX names, which ``named_parameters`` and ``state_dict`` give.
    """

    _names: dict[str, str]

    def __init__(self) -> None:
        super().__init__(nn.Module(), fx.Graph(), "ImportedGraph")
        self._names = {}

    def add_initializer(self, name: str, tensor: Tensor, *, persistent: bool = True) -> str:
        """Add a buffer; return the attribute by which the graph reads it.

        Args:
            name: Any text.
            tensor: Its value.
            persistent: Whether it belongs to the state dictionary.
        """
        attribute = f"initializer_{len(self._names)}"
        self._names[attribute] = name
        self._buffers[name] = tensor  # register_buffer takes no dots
        if not persistent:
            self._non_persistent_buffers_set.add(name)
        return attribute

    def make_parameter(self, name: str) -> None:
        """Turn a buffer into a parameter, if it is not one and can be trained."""
        tensor = self._buffers.get(name)
        if tensor is not None and tensor.is_floating_point():
            del self._buffers[name]
            self._parameters[name] = nn.Parameter(tensor)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(self.__dict__.get("_names", {}).get(name, name))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_names", {}).values() and not isinstance(value, Tensor | None):
            object.__setattr__(self, name, value)  # an attribute of the module, as ``training``
        else:
            super().__setattr__(name, value)

    def get_parameter(self, target: str) -> nn.Parameter:
        """The parameter of that name."""
        own = self._parameters.get(target)
        return super().get_parameter(target) if own is None else own

    def get_buffer(self, target: str) -> Tensor:
        """The buffer of that name."""
        own = self._buffers.get(target)
        return super().get_buffer(target) if own is None else own

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        own = {prefix + name for name in (*self._parameters, *self._buffers)}
        # torch takes what is before a dot for a submodule, which it does not find.
        unexpected_keys[:] = [key for key in unexpected_keys if key not in own]

    def _deepcopy_init(self) -> Callable[..., None]:
        return _restore


def _restore(copied: fx.GraphModule, state: nn.Module, graph: fx.Graph) -> None:
    """Finish a deep copy; what the base class does would name the tensors after the attributes."""
    fx.GraphModule.__init__(copied, nn.Module(), fx.Graph(), "ImportedGraph")
    for key in ("_names", "_parameters", "_buffers", "_modules", "training"):
        copied.__dict__[key] = state.__dict__[key]
    copied.graph = graph
