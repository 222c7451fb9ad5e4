"""BatchNormalization for the training of a network whose file has it folded."""

from __future__ import annotations

__all__ = ["with_batch_norm"]

import onnx_ir as ir
import torch
from torch import fx

from mpqtool.passes import pipelines
from mpqtool.passes.normalize.insert_batch_norm import without_batch_norm

from .data import Split
from .methods.batch_norm import output_statistics
from .methods.impq import SAMPLES
from .reporter import Reporter
from .training import EVALUATION_BATCH


def with_batch_norm(model: ir.Model, network: fx.GraphModule, tuning: Split, reporter: Reporter) -> ir.Model:
    """The model with BatchNormalization put back where it was folded; DoReFa's weights need it."""
    names = without_batch_norm(model)
    if not names:
        return model
    columns = [torch.from_numpy(array[:SAMPLES]).split(EVALUATION_BATCH) for array in tuning.inputs.values()]
    reporter.say(f"BatchNormalization is put back behind {len(names)} layers, with statistics of the data")
    return pipelines.insert_batch_norm(model, output_statistics(network, names, zip(*columns, strict=True)))
