"""QDQ files of other tools, brought to the form that the lowering passes know: the same real numbers."""

from __future__ import annotations

__all__ = [
    "CanonicalLayersPass",
    "CenterWeightsPass",
    "CheckWidthsPass",
    "ExplainPass",
    "FoldQuantizedConstantsPass",
    "MergePairsPass",
    "QuantizeMovesPass",
    "RaiseDeadScalesPass",
    "RescalePass",
    "SpellQdqPass",
    "UnsignActivationsPass",
    "code_shifts",
]

from .activations import UnsignActivationsPass, code_shifts
from .constants import FoldQuantizedConstantsPass
from .explain import ExplainPass
from .layers import CanonicalLayersPass
from .moves import QuantizeMovesPass
from .pairs import MergePairsPass
from .rescale import RescalePass
from .scales import RaiseDeadScalesPass
from .spelling import SpellQdqPass
from .weights import CenterWeightsPass
from .widths import CheckWidthsPass
