"""Which operators of a quantized network are faster in float on this machine: measured, not guessed."""

from .choose import Choice, fastest

__all__ = ["Choice", "fastest"]
