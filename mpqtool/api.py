"""What a script calls; the command line is a thin skin over it.

Everything heavy is imported where it is used, so that ``inspect`` loads no torch.
"""

from __future__ import annotations

__all__ = ["bench", "export_onnx", "import_onnx", "inspect", "lower", "quantize", "sensitivity", "verify"]

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mpqtool.passes.targets import TARGETS

from .errors import ModelError, OptionError, PassError
from .options import QuantizeOptions
from .reporter import Reporter

if TYPE_CHECKING:
    import torch

    from mpqtool.runtime.bench import BenchResult
    from mpqtool.runtime.verify import VerifyResult

    from .result import Result

Path = str | os.PathLike[str]
_INTEGER_LAYERS = ("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger")


def import_onnx(path: Path) -> torch.fx.GraphModule:
    """Import a float ONNX file; parameters keep the initializer names.

    Returns:
        A module whose inputs are positional, in graph order, and whose output is a tuple in graph order.

    Raises:
        ModelError: The file cannot be read, or holds operators that cannot be imported (all are listed).
    """
    from mpqtool.passes import pipelines
    from mpqtool.passes.load import load_model

    from .importer import import_graph

    return import_graph(pipelines.normalize(load_model(path)))


def quantize(
    model: Path,
    *,
    method: str | None = None,
    data: Path | None = None,
    out: Path | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Result:
    """Quantize a float ONNX file: learn bit-widths, fine-tune, lower, verify.

    Args:
        model: The float ONNX file.
        method: How bit-widths and scales are found: ``"impq"``, ``"lsq"``, ``"lsq+"``, ``"adaqat"``,
            ``"ptq"`` or ``"fat"``. None: ``"impq"``; with a plan, which is applied as it is then, none.
        data: Where inputs come from; see ``mpqtool.data``. None: ``model.npz`` beside ``model.onnx`` if it is
            there; else, and with ``"none"``, they are made from the model, and no accuracy is measured.
        out: Run directory; None: ``MODEL_STEM.mpq`` in the working directory.
        reporter: Where progress goes; None: only to the log file.
        **options: The other fields of ``QuantizeOptions``; ``--lambda`` is ``lambda_``.

    Returns:
        ``path`` of the run directory and the content of its ``result.json`` as ``result``.

    Raises:
        OptionError: There is no such option, or its value is not allowed.
        ModelError, DataError, PlanError: What was given cannot be used; nothing is written.
        VerificationError: The engines disagree; no integer file is written.
    """
    _refuse_unknown(options, QuantizeOptions.__dataclass_fields__)
    for name, path in (
        ("data", data),
        ("out", out),
        ("plan", options.get("plan")),
    ):
        options[name] = None if path is None else os.fspath(path)
    settings = QuantizeOptions(method=method, **options)
    from .pipeline import run

    return run(pathlib.Path(model), settings, reporter or Reporter(silent=True))


def lower(
    qdq: Path,
    out: Path,
    *,
    target: str = "cpu",
    lower: str = "full",
    vnni: bool | None = None,
    threads: int | None = None,
    sizes: Mapping[str, tuple[int, ...]] | None = None,
    reporter: Reporter | None = None,
) -> pathlib.Path:
    """Make the integer file of a QDQ file, ours or another tool's.

    Args:
        qdq: ONNX file with QuantizeLinear and DequantizeLinear.
        out: The integer ONNX file; appears whole or not at all.
        target: What it is to run on: ``"cpu"``, ``"standard"`` (operators of ONNX alone, for any runtime) or
            ``"cuda"`` (integers in float32). The integers are the same.
        lower: ``"full"``: all that can be is integer; ``"fastest"``: what is slower in integers on this
            machine stays float, for target ``"cpu"``.
        vnni: Whether the file is for CPUs with VNNI only: all weights are int8 then, which saturates on
            others. None: whether this CPU has it.
        threads: Threads of one operator that ``"fastest"`` measures with; None: one per core.
        sizes: Shapes of inputs that leave more open than the batch, by name, for ``"fastest"``.
        reporter: Where progress goes; None: nowhere.

    Returns:
        The path of the integer file.

    Raises:
        OptionError: There is no such target, or no such ``lower``; or an option has no effect with these.
        ModelError: The file cannot be read or lowered.
    """
    if target not in TARGETS:
        raise OptionError(f"There is no target {target!r}; targets: {', '.join(TARGETS)}")
    if lower == "full" and (threads is not None or sizes):
        raise OptionError("threads and sizes are for lower='fastest' alone, which measures; leave them out")
    from mpqtool.passes import cost
    from mpqtool.passes.load import load_model, save_model

    from .lowering import lowered

    model = load_model(qdq)
    if os.path.exists(out) and os.path.samefile(qdq, out):
        raise OptionError(f"{os.fspath(out)!r} is the file that is read; give another one to write to")
    integer = sum(node.op_type in _INTEGER_LAYERS for node in model.graph)
    if integer and not any(node.op_type in cost.OPERATORS for node in model.graph):
        raise ModelError(
            f"Nothing to lower: {os.fspath(qdq)!r} computes in integers already, in {integer} layers such as "
            "QLinearConv. Quantize with quant_format=QuantFormat.QDQ to let mpqtool make the integer file."
        )
    if not any(node.op_type == "DequantizeLinear" for node in model.graph):
        raise ModelError(
            f"Nothing to lower: {os.fspath(qdq)!r} has no DequantizeLinear. "
            "For a float model run `mpqtool quantize`."
        )
    result = lowered(
        model, path=os.fspath(qdq), reporter=reporter or Reporter(silent=True), target=target, lower=lower,
        vnni=vnni, sizes=sizes, threads=threads,
    )  # fmt: skip
    out = pathlib.Path(out)
    save_model(result, out)
    return out


def verify(
    int_path: Path,
    *,
    against: Path,
    data: Path | None = None,
    provider: str = "cpu",
    reporter: Reporter | None = None,
) -> VerifyResult:
    """Hold an integer file against the QDQ file it was made from.

    The torch integer simulation, the numpy reference and ONNX Runtime must give the same integers at
    every quantized tensor, at every graph optimisation level. A QDQ file of another tool may quantize in
    ways that the simulation does not know; it is left out then, which is said.

    Args:
        int_path: The integer file.
        against: The QDQ file.
        data: Samples, of which the test split is used; see ``mpqtool.data``. None: those of the run
            that made the file, else seeded noise, which is said loudly.
        provider: ``"cpu"``, ``"cuda"``, ``"tensorrt"`` or ``"auto"``.
        reporter: Where progress goes; None: nowhere.

    Returns:
        What was compared and what differed; ``passed`` says whether nothing did.

    Raises:
        ModelError, DataError: What was given cannot be used.
        RuntimeFault: The provider is not granted.
    """
    from mpqtool.passes.load import load_model
    from mpqtool.runtime import verify as engine
    from mpqtool.runtime.predict import batch_size

    from .samples import samples_for
    from .simulate import simulator_from_qdq

    reporter = reporter or Reporter(silent=True)
    qdq = load_model(against)
    load_model(int_path)  # says what is wrong with the file before anything long begins
    split = samples_for(pathlib.Path(int_path), qdq, data, reporter)
    try:
        simulate = simulator_from_qdq(against)
    except PassError as error:
        simulate = None
        first, *others = str(error).splitlines() or [type(error).__name__]
        more = f" (and {len(others)} more)" if others else ""
        reporter.warn(f"the torch simulation is left out of the comparison: {first}{more}")
    size = batch_size(qdq)
    with reporter.progress(-(-len(split) // size), "verify") as progress:
        return engine.verify(
            int_path,
            against,
            split.batches(size),
            simulate=simulate,
            labels=split.labels,
            provider=provider,
            on_batch=progress.advance,
        )


def inspect(path: Path) -> dict[str, Any]:
    """Tell what an ONNX file is made of: operators, bits per layer and kernel, MACs, BitOPs, bytes.

    Raises:
        ModelError: The file cannot be read.
    """
    from mpqtool.runtime.inspect import inspect as engine

    found: dict[str, Any] = engine(path)
    return found


def sensitivity(model: Path, *, reporter: Reporter | None = None, **options: Any) -> dict[str, Any]:
    """Tell what quantization of each kernel and activation does to the answers; nothing is trained.

    Args:
        model: The float ONNX file.
        reporter: Where progress goes; None: nowhere.
        **options: The fields of ``SensitivityOptions``.

    Returns:
        ``uniform``: for each width of all weights the ``bound`` on the share of samples whose answer changes,
        and that share as ``measured``, None without data; both None for a model without class logits.
        ``groups``: every kernel, and every activation, whose ``kernel`` is None, with the ``noise_gain`` of
        equations 2 and 3, in units of the tensor, how many ``weights`` it has, and its ``sensitivity``: the
        noise gain times the square of the step at 8 bits, by which they are sorted, the largest first. Beside
        these, what was given.

    Raises:
        OptionError: There is no such option, or its value is not allowed.
        ModelError, DataError: What was given cannot be used.
    """
    from .sensitivity_options import SensitivityOptions

    _refuse_unknown(options, SensitivityOptions.__dataclass_fields__)
    for name in ("data", "csv", "plot"):
        options[name] = None if options.get(name) is None else os.fspath(options[name])
    settings = SensitivityOptions(**options)
    from .run_sensitivity import sensitivity as engine

    return engine(pathlib.Path(model), settings, reporter or Reporter(silent=True))


def _refuse_unknown(options: Mapping[str, Any], known: Iterable[str]) -> None:
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise OptionError(f"There is no option {', '.join(map(repr, unknown))}; options: {', '.join(known)}")


def bench(
    *files: Path,
    batch: int = 1,
    threads: int | None = None,
    rounds: int = 30,
    sizes: Mapping[str, tuple[int, ...]] | None = None,
    provider: str = "cpu",
    reporter: Reporter | None = None,
) -> BenchResult:
    """Time ONNX files of any kind side by side, and tell what ONNX Runtime made of them.

    Args:
        *files: The first is what the others are compared with.
        batch: Samples of one run, where a file leaves that open.
        threads: Threads of one operator; None: one per core.
        rounds: How often each is run, in turn.
        sizes: Shapes of inputs that leave more open, by name.
        provider: ``"cpu"``, ``"cuda"``, ``"tensorrt"`` or ``"auto"``.
        reporter: Where progress goes; None: nowhere.

    Raises:
        ModelError: A file cannot be read.
        RuntimeFault: A file cannot be run, or an input leaves a size open.
    """
    from mpqtool.runtime.bench import bench as engine

    with (reporter or Reporter(silent=True)).progress(rounds, "bench") as progress:
        return engine(
            files, batch=batch, threads=threads, rounds=rounds, sizes=sizes, provider=provider,
            on_round=progress.advance,
        )  # fmt: skip


def export_onnx(
    model: torch.nn.Module | str,
    out: Path,
    *,
    input_shape: Sequence[int] | str | None = None,
    weights: Path | None = None,
    arg: Mapping[str, Any] | Sequence[str] = (),
    seed: int = 0,
) -> pathlib.Path:
    """Write a torch network as a float ONNX file, BatchNormalization kept, any number of samples.

    Args:
        model: The network, or ``package.module:factory``, a callable that makes it.
        out: The ONNX file; appears whole or not at all.
        input_shape: Shape of one sample, without the batch: ``(1, 28, 28)`` or ``"1,28,28"``. None: the
            network's own attribute ``input_shape``.
        weights: State dictionary, ``.safetensors`` or what ``torch.save`` wrote. None: as the network is.
        arg: Arguments of the factory, ``{"in_channels": 1}`` or ``("in_channels=1",)``.
        seed: Seed of weights that the factory draws.

    Returns:
        The path of the file.

    Raises:
        OptionError: The factory, its arguments or the input shape cannot be used.
        DataError: The weights cannot be read, or do not fit.
        ModelError: The network raises, or torch cannot express it as ONNX.
    """
    from .export import export_onnx as engine

    return engine(model, out, input_shape=input_shape, weights=weights, arg=arg, seed=seed)
