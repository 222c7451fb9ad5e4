"""What a user can run into, and act on. The command shows it without a traceback.

Every message is one line, except where several operators cannot be imported: then each has its own.

::

    PassError            mpqtool.passes: the graph
      ModelError         the ONNX file or graph cannot be used
        UnsupportedOpError   operators without a handler, all of them listed
      PlanError          a plan is malformed, or does not fit the model
    RuntimeFault         mpqtool.runtime: a provider that is not granted, a session that cannot be made
    MpqError             mpqtool itself
      DataError          the data cannot be read, or does not fit the model
      OptionError        an option has a value that is not allowed
      CheckpointError    a checkpoint cannot be resumed from
      TrainingError      the training diverged
      VerificationError  two engines gave different integers
        IslandError      they did so behind float operators alone
"""

from __future__ import annotations

__all__ = [
    "USER_ERRORS",
    "CheckpointError",
    "DataError",
    "IslandError",
    "ModelError",
    "MpqError",
    "OptionError",
    "PassError",
    "PlanError",
    "RuntimeFault",
    "TrainingError",
    "UnsupportedOpError",
    "VerificationError",
    "user_error",
]

from collections.abc import Mapping

from mpqtool.passes.errors import ModelError, PassError, PlanError, UnsupportedOpError
from mpqtool.runtime.errors import RuntimeFault


class MpqError(Exception):
    """Base of the errors of this layer; the message is one line that says what to do next."""


class DataError(MpqError):
    """The data cannot be read, or does not fit the model."""


class OptionError(MpqError):
    """An option has a value that is not allowed."""


class CheckpointError(MpqError):
    """A checkpoint cannot be resumed from."""


class TrainingError(MpqError):
    """The training came to no usable network."""


class VerificationError(MpqError):
    """Two engines gave different integers, so no integer file was put in place."""


class IslandError(VerificationError):
    """Engines gave different codes behind float operators, and nowhere else.

    Attributes:
        islands: Why each of these values cannot be codes, by name.
    """

    def __init__(self, message: str, islands: Mapping[str, str]) -> None:
        super().__init__(message)
        self.islands = dict(islands)


USER_ERRORS = (PassError, RuntimeFault, MpqError)


def user_error(error: BaseException | None) -> BaseException | None:
    """Find what the user can fix in a chain of causes: the innermost of our own errors, or None.

    The pass manager wraps what a pass raises, and our errors may themselves wrap a library's.
    """
    found = None
    while error is not None:
        if isinstance(error, USER_ERRORS):
            found = error
        error = error.__cause__
    return found
