"""What can be wrong with a user's model or plan."""

from __future__ import annotations

__all__ = ["ModelError", "PassError", "PlanError", "UnsupportedOpError"]


class PassError(Exception):
    """Base of the errors of this layer; the message is one line that says what to do next."""


class ModelError(PassError):
    """The ONNX file or graph cannot be used."""


class UnsupportedOpError(ModelError):
    """The graph holds operators that have no handler; the message lists them all."""


class PlanError(PassError):
    """A plan is malformed, or does not fit the model it is applied to."""
