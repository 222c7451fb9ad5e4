"""What a run stands on: the checked model, plan and data. Nothing is written before this is whole."""

from __future__ import annotations

__all__ = ["Job", "nothing_to_quantize", "prepare"]

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any, Literal

import onnx_ir as ir
from numpy.typing import NDArray

from mpqtool.importer import import_graph
from mpqtool.passes import cost, pipelines
from mpqtool.passes.load import load_model, stored_bytes
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid, Plan
from mpqtool.passes.quantize import check_fits, extract
from mpqtool.runtime.predict import predict

from . import rundir
from .batch import TaskLoss
from .checkpoint import Checkpoint, save_checkpoint
from .coverage import float_layers, open_sizes, uncounted_tables
from .crosscheck import check_import, check_learnable, check_normal_form
from .data import Data, Split
from .errors import ModelError
from .goal import make_goal, own_functions
from .method_options import UNLABELED, epochs_for
from .metrics import Measure
from .options import QuantizeOptions
from .processes import is_main
from .reporter import Reporter
from .resumption import TAKEN, find_checkpoint
from .run_data import hold_out, read_data
from .unfold import with_batch_norm

_END_BITS = 8
"""Width of the first and the last layer, where a method leaves them out."""
_AFTER_TRAINING = ("target", "lower", "vnni")
"""Options of the integer file alone: a run may go on with others."""


@dataclasses.dataclass
class Job:
    """One run of ``quantize``, ready to start.

    Attributes:
        path: The float file, or a QDQ file of ours whose weights a plan is applied to.
        digest: Its SHA-256.
        float_bytes: Bytes of the float model, external data included.
        options: What to do.
        reporter: Where progress goes.
        out: The run directory.
        model: The normal graph, BatchNormalization kept.
        folded: The normal graph, BatchNormalization folded; plans speak of this one.
        plan: Which tensors get a quantizer, at the start widths; or the user's plan, to apply or to begin
            with.
        data: Training and test samples.
        tuning: The part of the training split that the search learns from.
        held_out: The rest of it, on which the search decides.
        float_outputs: The float model's outputs on the test split.
        metric: Name of the measure all forms of the model are compared by.
        measure: That measure.
        loss: What training makes smaller.
        seconds: Time spent, by stage.
        started: Clock reading at the start.
        checkpoint: Where an earlier run of the same job stopped, if this one goes on from it.
    """

    path: pathlib.Path
    digest: str
    float_bytes: int
    options: QuantizeOptions
    reporter: Reporter
    out: pathlib.Path
    model: ir.Model
    folded: ir.Model
    plan: Plan
    data: Data
    tuning: Split
    held_out: Split
    float_outputs: list[NDArray[Any]]
    metric: str
    measure: Measure
    loss: TaskLoss
    seconds: dict[str, float]
    started: float
    checkpoint: Checkpoint | None = None

    @property
    def mode(self) -> Literal["labels", "distill", "data-free"]:
        """What is learned from."""
        if self.data.synthetic:
            return "data-free"
        taught = self.options.distill or self.options.method in UNLABELED
        return "labels" if self.has_lesson and not taught else "distill"

    @property
    def has_lesson(self) -> bool:
        """Whether there are labels that the loss understands."""
        understood = self.data.class_labels or self.options.loss is not None
        return understood and self.data.train.labels is not None

    def test_score(self, outputs: list[NDArray[Any]]) -> float | None:
        """The metric of some outputs on the test split; None where that is made up, and would say nothing."""
        if self.data.synthetic:
            return None
        return self.measure(outputs, self.float_outputs, self.data.test.labels)

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to fit: the model, and the options that change numbers."""
        options = self.options.settings
        for name in ("out", "resume", "take", "tensorboard", *_AFTER_TRAINING):
            options.pop(name, None)
        options["data"] = self.data.spec
        if options["plan"] is not None:
            options["plan"] = self.plan.to_json()
        return json.loads(json.dumps({"model": self.digest, "options": options}))  # type: ignore[no-any-return]

    def save(self, stage: str, checkpoint: Checkpoint) -> None:
        """Write down where the run is; not while an iteration is taken from one that stands elsewhere."""
        if self.options.take is None:
            self._write(self.out / rundir.CHECKPOINT, stage, checkpoint)

    def keep(self, iteration: int, checkpoint: Checkpoint) -> None:
        """Write down the network of an iteration, to be taken by ``--take``."""
        self._write(self.out / rundir.ITERATIONS, TAKEN, checkpoint, str(iteration))

    def _write(self, folder: pathlib.Path, stage: str, checkpoint: Checkpoint, name: str = "state") -> None:
        if is_main():
            state = {**checkpoint.state, "stage": stage, "identity": self.identity}
            save_checkpoint(folder, Checkpoint(checkpoint.tensors, state), name)

    def resumed(self, stage: str) -> Checkpoint | None:
        """The checkpoint to go on from, if it was taken in this stage."""
        if self.checkpoint is None or self.checkpoint.state["stage"] != stage:
            return None
        return self.checkpoint

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the block's seconds towards a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began


def prepare(path: str | pathlib.Path, options: QuantizeOptions, reporter: Reporter) -> Job:
    """Load and check everything a run needs.

    Raises:
        ModelError: The file cannot be read, or an operator cannot be imported.
        PlanError: ``options.plan`` does not fit the model.
        DataError: The data does not fit the model; or there is none, and none can be made.
        OptionError: There is no data, and an option needs it; or a metric or loss does not work.
        CheckpointError: ``options.resume`` or ``options.take`` does not fit what is in the run directory.
    """
    started = time.perf_counter()
    path = pathlib.Path(path)
    own = own_functions(options)
    loaded = load_model(path)
    is_qdq = any(node.op_type == "DequantizeLinear" for node in loaded.graph)
    if is_qdq:
        if options.plan is None:
            raise ModelError(
                f"{str(path)!r} is quantized already. Give the float model; or --plan, to apply a plan to "
                "the weights that this file holds, or to go on from them with --method impq."
            )
        loaded, _ = extract(loaded)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    model = pipelines.normalize(loaded)
    network = import_graph(model)  # first of all: it names everything that cannot be imported, at once
    given = None if options.plan is None else Plan.load(options.plan)
    full = given is not None and any(entry.grid is Grid.FULL for entry in given.weights)
    if full or options.method in ("lsq", "lsq+"):
        model = pipelines.positive_batch_norm(model)  # the full grid is not symmetric
    folded = pipelines.fold_batch_norm(model)
    plan = _place(folded, options)
    if not plan.weights:
        raise ModelError(nothing_to_quantize(path, folded))
    placed = {entry.name for entry in plan.weights}
    check_learnable(path, network, placed)
    if given is not None:
        check_fits(folded, given)
        plan = given
    data = read_data(path, model, network, options, reporter)
    _say_what_stays_float(folded, data, reporter, plan=plan, placed=placed)
    if not is_qdq:  # the network inside a QDQ file is, without its quantizers, not what the file computes
        check_normal_form(path, model, data.test)
    float_outputs = predict(model, data.test.inputs)
    check_import(network, data.test, float_outputs)
    goal = make_goal(options, own, data, float_outputs)
    tuning, held_out = hold_out(data.train, options.seed, trains=options.method != "ptq")
    if options.epochs is None:
        samples = min(options.epoch_samples or len(tuning), len(tuning))
        options = dataclasses.replace(options, epochs=epochs_for(samples, options.batch_size))
    if options.method == "adaqat":
        model = with_batch_norm(model, network, tuning, reporter)
        folded = pipelines.fold_batch_norm(model)
    out = pathlib.Path(options.out) if options.out else pathlib.Path(f"{path.stem}.mpq")
    job = Job(
        path=path, digest=digest, float_bytes=stored_bytes(path),
        options=options, reporter=reporter, out=out, model=model, folded=folded,
        plan=plan, data=data, tuning=tuning, held_out=held_out, float_outputs=float_outputs,
        metric=goal.metric, measure=goal.measure, loss=goal.loss, seconds={}, started=started,
    )  # fmt: skip
    job.checkpoint = find_checkpoint(job)
    job.seconds["import"] = time.perf_counter() - started
    return job


def _place(folded: ir.Model, options: QuantizeOptions) -> Plan:
    """Which tensors get a quantizer, at the widths that the method starts from."""
    searched = options.method in ("impq", "adaqat")
    widths = options.start_widths
    return place(
        folded,
        weight_bits=int(widths[0]),
        activation_bits=int(widths[1]),
        grid=Grid.ODD if searched else Grid(options.weight_grid),
        end_bits=None if options.method == "impq" or options.all_layers else _END_BITS,
    )


def nothing_to_quantize(path: pathlib.Path, folded: ir.Model) -> str:
    """Say why no tensor of a model gets a quantizer."""
    operators = sorted({row.op for row in cost.layers(folded)})
    lacking = (
        f"its layers ({', '.join(operators)}) have no integer form yet"
        if operators
        else "it has no convolution or matrix product with constant weights"
    )
    return (
        f"Cannot quantize {str(path)!r}: {lacking}. Give a network with Conv or Gemm layers; "
        "`mpqtool inspect` lists the operators of a file."
    )


def _say_what_stays_float(
    folded: ir.Model, data: Data, reporter: Reporter, *, plan: Plan, placed: set[str]
) -> None:
    """Tell early what the effective bits will not improve on."""
    inputs = data.test.inputs
    sizes = open_sizes(folded, inputs)
    for name, shape in sizes.items():
        reporter.say(
            f"sizes: the model leaves some open; MACs and effective bits are those of {name!r} as it is in "
            f"the data, {'x'.join(map(str, shape[1:]))}"
        )
    rows = cost.layers(cost.sized(folded, sizes) if sizes else folded)
    left = float_layers(rows, quantized={entry.name for entry in plan.weights}, placed=placed)
    if left:
        reporter.warn(f"{left}; the bits shown during the search are those of the quantized weights")
    tables = uncounted_tables(folded)
    if tables:
        reporter.warn(tables)
