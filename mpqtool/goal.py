"""What a run is measured by, and what its training makes smaller."""

from __future__ import annotations

__all__ = ["Goal", "make_goal", "own_functions"]

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from .batch import TaskLoss, relative_error, task_loss
from .data import Data
from .errors import OptionError
from .metrics import Measure, check_metric, metric_name, score
from .option_checks import METRICS
from .options import QuantizeOptions
from .own import check_loss, make_loss, make_metric


@dataclasses.dataclass(frozen=True)
class Goal:
    """What is better.

    Attributes:
        metric: Name of the measure.
        measure: The measure; higher is better.
        loss: The loss of a batch.
    """

    metric: str
    measure: Measure
    loss: TaskLoss


def own_functions(options: QuantizeOptions) -> tuple[Measure | None, TaskLoss | None]:
    """Find the functions of the user, before anything long begins.

    Raises:
        OptionError: ``metric`` or ``loss`` names something that is not there.
    """
    metric = None if options.metric in (None, *METRICS) else make_metric(options.metric)
    return metric, None if options.loss is None else make_loss(options.loss)


def make_goal(
    options: QuantizeOptions,
    own: tuple[Measure | None, TaskLoss | None],
    data: Data,
    float_outputs: Sequence[NDArray[Any]],
) -> Goal:
    """Settle what is better, and try the user's functions on the float model's outputs.

    Args:
        options: What was asked for.
        own: What ``own_functions`` found.
        data: The samples.
        float_outputs: Of the float model on the test split.

    Raises:
        OptionError: The metric does not fit the model or the data, or a function of the user does not work.
    """
    labels = data.test.labels
    classes = labels if data.class_labels else None
    measure, loss = own
    metric = options.metric or metric_name(float_outputs, classes)
    if measure is not None:
        measure(float_outputs, float_outputs, labels)
    else:
        check_metric(metric, float_outputs, classes)
        measure = functools.partial(score, metric)
    if loss is not None:
        taught = options.distill or labels is None
        check_loss(str(options.loss), loss, float_outputs, labels, taught=taught)
    else:
        numbers = metric == "sqnr_db" and classes is None  # which may have the shape of class logits
        loss = relative_error if numbers else task_loss
    _refuse_idle_floors(options, metric)
    return Goal(metric, measure, loss)


def _refuse_idle_floors(options: QuantizeOptions, metric: str) -> None:
    """See that a floor which was asked for counts in the unit of the metric."""
    if metric != "sqnr_db" and options.min_sqnr != options.default_of("min_sqnr"):
        raise OptionError(f"min_sqnr has no effect on the metric {metric!r}; give max_drop, or leave it out")
    if (
        metric == "sqnr_db"
        and options.method != "impq"
        and options.max_drop != options.default_of("max_drop")
    ):
        raise OptionError(
            "max_drop has no effect on the metric 'sqnr_db', which has no float value to drop from; give "
            "min_sqnr with method 'ptq', or leave it out"
        )
