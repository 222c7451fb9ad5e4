"""Write what a run found: plan, QDQ file, integer file once it is proved, result and report."""

from __future__ import annotations

__all__ = ["emit"]

import json
import pathlib
import tempfile
import time
from typing import Any

import torch

from mpqtool.passes import cost, pipelines
from mpqtool.passes.load import load_model, save_model
from mpqtool.passes.metadata import SUFFIX
from mpqtool.passes.plan import Plan
from mpqtool.runtime.inspect import inspect
from mpqtool.runtime.predict import BATCH, predict
from mpqtool.runtime.verify import VerifyResult, verify

from . import budget_report, report, rundir
from .coverage import open_sizes
from .errors import IslandError, VerificationError
from .files import replacing, write_text
from .finished import Finished, leave_float
from .job import Job
from .lowering import lowered
from .processes import main_first
from .result import (
    Bits,
    Bytes,
    Cost,
    DataInfo,
    Metric,
    ModelInfo,
    Nodes,
    Result,
    ResultFile,
    Times,
    Verification,
)
from .simulate import IntegerSimulation

_WORSE = 1.0
"""Points or dB of the metric that are worth a warning."""
_CODES = 2**23
"""Codes that are compared at once; all engines together take some 60 bytes for each."""


def emit(job: Job, finished: Finished) -> Result:
    """Lower, prove, and write.

    ``model.int.onnx`` is put in place only when the torch simulation, the numpy reference and ONNX Runtime
    gave the same integers on the whole test split.

    Where they did but for codes behind float operators, those values are left in float too.

    Raises:
        VerificationError: They did not; plan and QDQ file stay for the search of the fault.
    """
    with main_first() as main:
        while main:
            try:
                return _emit(job, finished)
            except IslandError as fault:
                job.reporter.warn(
                    f"{', '.join(fault.islands)} too must stay float: {next(iter(fault.islands.values()))}"
                )
                finished = leave_float(finished, fault.islands)
    path = job.out / rundir.RESULT
    running = time.perf_counter() - job.started
    if not path.exists() or time.time() - path.stat().st_mtime > running:  # the latter is of an earlier run
        raise VerificationError(f"The main process wrote no {str(path)!r}; what it says tells why.")
    return Result(path=job.out, result=json.loads(path.read_text(encoding="utf-8")))


def _emit(job: Job, finished: Finished) -> Result:
    out = job.out
    with job.timed("lower"):
        qdq = pipelines.quantize(finished.model, finished.plan)
        integer = lowered(
            qdq, path=str(out / rundir.QDQ), reporter=job.reporter, target=job.options.target,
            lower=job.options.lower, vnni=job.options.vnni, sizes=_one_sample(job, finished),
        )  # fmt: skip
        for name in (rundir.PLAN, rundir.QDQ, rundir.INT, rundir.RESULT, rundir.REPORT):
            (out / name).unlink(missing_ok=True)  # from here on nothing in it is of an earlier run
        write_text(out / rundir.PLAN, finished.plan.to_json())
        save_model(qdq, out / rundir.QDQ)
    with replacing(out / rundir.INT) as unproved, job.timed("verify"):
        save_model(integer, unproved)
        proof = _verify(job, finished.simulation, unproved)
        if not proof.passed:
            raise _fault(finished.plan, proof, out / rundir.QDQ)
    content = _result(job, finished, proof)
    content.budgets = job.reporter.named(budget_report.told(job, content, finished))
    job.seconds["total"] = time.perf_counter() - job.started
    content.time_s = Times(**{stage: round(seconds, 3) for stage, seconds in job.seconds.items()})
    result = content.write(out / rundir.RESULT)
    if content.bytes.integer is not None and content.bytes.integer > job.float_bytes:
        job.reporter.warn(
            f"the integer file has {content.bytes.integer} bytes, more than the {job.float_bytes} of the "
            "float file: what it holds beside quantized weights outweighs what they save"
        )
    if proof.real_unsettled:
        job.reporter.warn(
            f"{proof.real_unsettled:,} outputs are further apart between engines than float32 usually is, as "
            "float operators of this network make that of its rounding"
        )
    _say_pruned(job, content, finished.plan)
    _say_saturated(job, content)
    report.build(out)
    job.reporter.event("done", seconds=job.seconds["total"])
    return Result(path=out, result=result)


def _fault(plan: Plan, proof: VerifyResult, qdq: pathlib.Path) -> VerificationError:
    """What a proof that failed means."""
    message = (
        f"{rundir.INT} was not written: {proof.codes_different} of {proof.codes_compared} codes differ "
        f"between torch, numpy and ONNX Runtime, first in {proof.first_different!r}. This is a fault of "
        f"mpqtool: please report it with {str(qdq)!r}."
    )
    values = {f"{entry.name}{SUFFIX}": entry.name for entry in plan.activations}
    wrong = [row for row in proof.tensors if row.different or row.is_off_too_often]
    if wrong and all(row.kind == "island" and row.name in values for row in wrong):
        why = "engines do not agree on what the float operators before it give: by {:.0f} codes on test data"
        return IslandError(message, {values[row.name]: why.format(row.largest) for row in wrong})
    return VerificationError(message)


def _say_pruned(job: Job, content: ResultFile, plan: Plan) -> None:
    """How many kernels have no bits, and whether they left the file."""
    pruned = sum(entry.bits.count(0) for entry in plan.weights)
    if pruned:
        removed = sum(row.weights_removed or 0 for row in content.bits.layers)
        job.reporter.say(
            f"{pruned:,} kernels have no bits, and {removed:,} weights left the integer file: kernels leave "
            "by eights, or fours, and where nothing but layers, pools and functions uses them"
        )


def _say_saturated(job: Job, content: ResultFile) -> None:
    """Where the QDQ file answers worse than the integer file: which of them to ship."""
    qdq, integer = content.metric.qdq, content.metric.integer
    if qdq is not None and integer is not None and integer - qdq > _WORSE:
        job.reporter.warn(
            f"{rundir.QDQ} gives {qdq:.2f} {job.metric} on this CPU, and {rundir.INT} {integer:.2f}: without "
            "VNNI, 8-bit layers of ONNX Runtime saturate; ship the integer file, or optimise no graph"
        )


def _verify(job: Job, simulation: IntegerSimulation, path: pathlib.Path) -> VerifyResult:
    """Hold the emitted file against the network it was trained as."""
    test, simulation = job.data.test, simulation.eval()
    codes, _ = simulation.codes(*(torch.from_numpy(array[:1]) for array in test.inputs.values()))
    size = max(1, min(BATCH, _CODES // sum(code.numel() for code in codes.values())))
    with job.reporter.progress(-(-len(test) // size), "verifying") as progress:
        return verify(
            path,
            job.out / rundir.QDQ,
            test.batches(size),
            simulate=simulation.on_arrays(job.folded),
            labels=test.labels if job.data.class_labels else None,
            on_batch=progress.advance,
        )


def _one_sample(job: Job, finished: Finished) -> dict[str, tuple[int, ...]]:
    """Shapes of a sample, if the model leaves more open than the batch."""
    sizes = open_sizes(finished.model, job.data.test.inputs)
    return {name: (1, *shape[1:]) for name, shape in sizes.items()}


def _facts(job: Job, finished: Finished) -> dict[str, Any]:
    """What the integer file is made of; sizes that it leaves open are those of the samples."""
    facts = inspect(job.out / rundir.INT)
    sizes = open_sizes(finished.model, job.data.test.inputs)
    if sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / rundir.INT
            qdq = pipelines.quantize(cost.sized(finished.model, sizes), finished.plan)
            save_model(pipelines.lower_like(qdq, load_model(job.out / rundir.INT)), path)
            found = inspect(path)
        share = found["nodes"]["mac_share_integer"]
        facts |= {"bits": found["bits"], "cost": found["cost"]}
        facts["nodes"] |= {"mac_share_integer": share}
    return facts


def _result(job: Job, finished: Finished, proof: VerifyResult) -> ResultFile:
    """Everything that was measured."""
    options, data, named = job.options, job.data, job.reporter.named
    facts = _facts(job, finished)
    network = finished.network.eval()
    with torch.no_grad():
        fake = [network(*(torch.from_numpy(a) for a in batch.values())) for batch in data.test.batches(BATCH)]
    fake_outputs = [torch.cat(parts).cpu().numpy() for parts in zip(*fake, strict=True)]
    inputs = data.test.inputs
    return ResultFile(
        method=options.method or "plan",
        settings=options.settings,
        seed=options.seed,
        model=ModelInfo(path=str(job.path), sha256=job.digest),
        data=DataInfo(
            spec=None if data.synthetic else data.spec, mode=job.mode,
            train=len(data.train), test=len(data.test), labels=data.test.labels is not None,
        ),
        metric=Metric(
            name=None if data.synthetic else job.metric,
            float=job.test_score(job.float_outputs),
            fake_quant=job.test_score(fake_outputs),
            qdq=job.test_score(predict(job.out / rundir.QDQ, inputs)),
            integer=job.test_score(predict(job.out / rundir.INT, inputs)),
        ),
        bits=Bits(**facts["bits"]),
        cost=Cost(**facts["cost"]),
        bytes=Bytes(float=job.float_bytes, **facts["bytes"]),
        verify=Verification(
            passed=proof.passed, provider=proof.provider, codes_compared=proof.codes_compared,
            codes_different=proof.codes_different, qdq_max_lsb=proof.qdq_max_lsb, qdq_rate=proof.qdq_rate,
            top1_agreement=proof.top1_agreement, local_max_lsb=proof.local_max_lsb,
            local_rate=proof.local_rate, local_left_out=proof.local_left_out,
            real_unsettled=proof.real_unsettled,
        ),
        nodes=Nodes(**facts["nodes"]),
        history=[named(row) for row in finished.history],
        points=[named(row) for row in finished.points],
    )  # fmt: skip
