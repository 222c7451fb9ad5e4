"""Plan and float graph to QDQ graph, and back."""

from .biases import with_fine_biases, with_room_for_shifts
from .complete import check_fits, complete, raise_dead_scales
from .extract import extract
from .insert import InsertQdqPass
from .lost import lost_in_sums
from .offsets import snap
from .sums import with_exact_sums

__all__ = [
    "InsertQdqPass",
    "check_fits",
    "complete",
    "extract",
    "lost_in_sums",
    "raise_dead_scales",
    "snap",
    "with_exact_sums",
    "with_fine_biases",
    "with_room_for_shifts",
]
