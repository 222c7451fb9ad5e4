"""``mpqtool quantize``."""

from __future__ import annotations

__all__ = ["command"]

import dataclasses
from collections.abc import Callable
from typing import Any

import rich_click as click
from click import get_current_context
from click.core import ParameterSource

from mpqtool.errors import OptionError
from mpqtool.method_options import method_of, why_without_effect
from mpqtool.options import CHOICES, QuantizeOptions

from .common import echo_json, heavy_imports, json_option, numbers, size, vnni_option
from .summary import echo_summary

_Command = Callable[..., Any]
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(QuantizeOptions)}


def _option(name: str, *more: str, help: str, **settings: Any) -> Callable[[_Command], _Command]:
    """Make an option of a field of ``QuantizeOptions``: name, default and choices come from there."""
    default = _DEFAULTS[name]
    if name in CHOICES:
        settings["type"] = click.Choice(CHOICES[name])
    return click.option(
        f"--{name.rstrip('_').replace('_', '-')}", *more, name, default=default, help=help,
        show_default=default is not None and default is not False, **settings,
    )  # fmt: skip


def _panel(title: str, *options: str) -> Callable[[_Command], _Command]:
    return click.option_panel(title, options=list(options))


@click.command(
    "quantize",
    epilog="Example: mpqtool quantize examples/digits.onnx --target-bits W3A6\n\n"
    "Example: mpqtool quantize examples/digits.onnx --method ptq --bits W4A8\n\n"
    "Example: mpqtool quantize examples/digits.onnx --method lsq+ --bits W4A4\n\n"
    "Example: mpqtool quantize examples/digits.onnx --method adaqat --lambda 0.15 --epochs 30\n\n"
    "Example: mpqtool quantize examples/digits.onnx --method fat --bits W6A6",
)
@_panel("Method", "method", "plan")
@_panel("Data", "data", "resize", "mean", "std", "metric")
@_panel("Search (--method impq, adaqat)", "start_bits", "granularity")
@_panel("Budgets", "max_drop", "min_sqnr", "target_bits", "target_size", "target_bitops")
@_panel(
    "IMPQ (--method impq)",
    "first", "sensitivity", "rank",
    "step_groups", "step_sensitivity", "step_mismatch", "prune", "clip", "activation_clip",
    "take",
)  # fmt: skip
@_panel(
    "AdaQAT (--method adaqat)", "lambda_", "activation_granularity", "hardware", "from_scratch",
)  # fmt: skip
@_panel("First and last layer (--method lsq, lsq+, adaqat, ptq, fat)", "all_layers")
@_panel("Uniform widths (--method lsq, lsq+, ptq, fat)", "bits")
@_panel(
    "Post-training quantization (--method ptq)",
    "rounding", "bias_correction", "equalize", "ranges", "calibration_samples",
)  # fmt: skip
@_panel(
    "LSQ and LSQ+ (--method lsq, lsq+)", "config", "weight_scales", "weight_grid", "init", "patience",
)  # fmt: skip
@_panel(
    "Training (--method impq, lsq, lsq+, adaqat, fat)",
    "epochs", "epoch_samples", "batch_size", "lr", "tensorboard",
)  # fmt: skip
@_panel(
    "Training of weights (--method impq, lsq, lsq+, adaqat)",
    "accumulate", "optimizer", "weight_decay", "mixed_precision", "loss", "distill",
)  # fmt: skip
@_panel("Integer file", "target", "lower", "vnni")
@_panel("Run", "out", "resume", "seed", "as_json", "help")
@click.argument("model", type=click.Path())
@_option(
    "method",
    help="impq: search how many bits each kernel needs. lsq, lsq+: the same bits everywhere, scales (lsq+: "
    "and offsets) learned. adaqat: widths learned by gradient descent while the network trains. ptq: nothing "
    "trained, the same bits everywhere, weights rounded for the outputs of each layer. fat: the same bits "
    "everywhere, thresholds alone learned, without labels.  [default: "
    "impq; none with --plan]",
)
@_option(
    "plan", type=click.Path(), metavar="FILE",
    help="Without --method: apply this plan.json as it is, without training. With --method impq: start the "
    "search from its widths and scales. MODEL may be the QDQ file it belongs to, for its weights.",
)  # fmt: skip
@_option(
    "take", type=int, metavar="N",
    help="Make the files of iteration N, which an earlier run with the same options kept in the run "
    "directory; no search.",
)  # fmt: skip
@_option(
    "data", metavar="SPEC",
    help="Inputs: FILE.npz, idx:DIR, cifar10:DIR, an image folder, or package.module:callable. none: made "
    "from the model alone, without a measured accuracy.  [default: MODEL.npz beside MODEL.onnx, else none]",
)  # fmt: skip
@_option("resize", type=size, metavar="HxW", help="Height and width for the pictures of an image folder.")
@_option(
    "mean", type=numbers, metavar="N,N,N", help="Subtract from pixels in 0 to 1, per channel or for all."
)
@_option(
    "std", type=numbers, metavar="N,N,N", help="Divide pixels by this after that, per channel or for all."
)
@_option(
    "metric",
    metavar="NAME",
    help="What decides and is reported; higher is better. top1: answers that are the label; agreement: that "
    "are the float model's; sqnr_db: signal to quantization noise; or a function of outputs, float outputs "
    "and labels: package.module:callable, FILE.py:callable.  [default: what fits the model and the data]",
)
@_option(
    "start_bits", metavar="WnAn",
    help="Uniform widths that the search starts from.  [default: impq W4A8; adaqat W8A8]",
)  # fmt: skip
@_option(
    "target_bits", metavar="WnAn",
    help="Effective widths to come down to; fractions are allowed. impq and ptq search for them, the other "
    "methods are held against them.  [default: impq W3A6; none beside another target]",
)  # fmt: skip
@_option(
    "target_size", type=int, metavar="BYTES",
    help="Bytes of all weights to come down to, as bytes.weights_owed of result.json has them.",
)  # fmt: skip
@_option(
    "target_bitops", type=float, metavar="N",
    help="Operations on bits to come down to, as cost.bitops of result.json has them, such as 1.5e8; with "
    "impq, what comes first goes half of the way, as factors go.",
)  # fmt: skip
@_option(
    "max_drop", type=float,
    help="Points of the metric that may be lost on held-out data; ptq: one sample at least.  [default: impq, "
    "ptq 1.0; others none]",
)  # fmt: skip
@_option(
    "min_sqnr", type=float, metavar="DB",
    help="ptq: the same where there are no classes: signal to noise of the outputs, of the worst one, on "
    "held-out data.",
)  # fmt: skip
@_option("first", help="What bits are taken from first.")
@_option(
    "sensitivity",
    help="What a bit less of a group costs. bound: its term in the bound on the mismatch probability. paper: "
    "equations 4 and 5, which leave out the range. repo: the authors' code, with mean magnitudes.",
)
@_option(
    "rank",
    help="What that is divided by. bits: bits of storage saved. macs: multiply-accumulates saved, times the "
    "bits of the other operand. group: nothing, as in the paper.",
)
@_option(
    "step_groups", type=int, metavar="N",
    help="Groups that lose a bit in one iteration.  [default: 50 % of the eligible ones three times, 25 %, "
    "then 15 %, and no fewer than 5 % of those at first]",
)  # fmt: skip
@_option(
    "step_sensitivity", type=float, metavar="M", help="Instead: all groups with a sensitivity up to this."
)
@_option(
    "step_mismatch", type=float, metavar="P",
    help="Instead: as many as add no more than this to the bound on the mismatch probability.",
)  # fmt: skip
@_option(
    "bits", metavar="WnAn",
    help="Widths of weights and activations; the first and the last layer have 8. ptq: or mixed, as few "
    "in each layer as the budgets allow.  [default: lsq, lsq+ W4A4; ptq, fat W8A8; ptq mixed with a target]",
)  # fmt: skip
@_option(
    "rounding",
    help="adaround: weights are rounded up or down for the least error of what each layer gives. nearest: "
    "each to its nearest code. auto: adaround below 8 bits.",
)
@_option(
    "ranges",
    help="Where activations are clipped. mse: least squared error. fisher: the same, of what outputs hang "
    "on. percentile: 99.99 % inside. entropy: least Kullback-Leibler divergence. minmax: nowhere. auto: mse, "
    "and fisher where that loses too much.",
)
@click.option(
    "--bias-correction/--no-bias-correction",
    "bias_correction",
    default=True,
    show_default=True,
    help="Biases take what rounding changes the mean of each channel by.",
)
@_option(
    "equalize", is_flag=True,
    help="Bring channels to weights of like size in layers that follow each other first, and absorb biases.",
)  # fmt: skip
@_option("calibration_samples", type=int, help="Training samples that ranges and roundings are fitted to.")
@_option("prune", is_flag=True, help="Let kernels lose their last bit, and leave the file.")
@_option(
    "clip",
    help="Where kernels are clipped. mse: least squared error. paper4rms: 4 root mean squares, as in the "
    "paper. max: nowhere, as in the authors' code.",
)
@_option(
    "activation_clip",
    help="Where the clip of an activation behind ReLU starts; training moves it. mse: least squared error. "
    "6sigma: mean and six standard deviations before it, of BatchNormalization or measured.",
)
@_option(
    "lambda_", type=float,
    help="Price of bits, in units of the loss, times weight bits times activation bits: the larger, the "
    "fewer bits.",
)  # fmt: skip
@_option(
    "granularity",
    help="What has a width of its weights: the network, each layer, or each kernel.  [default: impq kernel; "
    "adaqat network]",
)
@_option(
    "activation_granularity",
    help="What has a width of its activations; auto: the network if --granularity is, else each layer.",
)
@_option(
    "hardware",
    help="What widths are weighed by. bitops: multiply-accumulates. size: weights; activations keep their "
    "width. latency: the time of each layer on this machine, measured at 8 bits and taken to be in "
    "proportion below.",
)
@_option("from_scratch", is_flag=True, help="Draw the weights anew, instead of fine-tuning the file's.")
@_option(
    "all_layers",
    is_flag=True,
    help="Treat the first and the last layer as the others; else they keep 8 bits.",
)
@_option(
    "config",
    help="Codes of activations, LSQ+ table 1. 1: unsigned. 2: signed. 3: signed, learned offset (lsq+). 4: "
    "unsigned, learned offset (lsq+). auto: 4 (lsq: 1) behind Swish-like functions, 1 behind ReLU and "
    "sigmoid; from 4 bits on, a fitted whole zero point where an offset could not be folded. Values without "
    "an activation function (linear bottlenecks) always have 2.",
)
@_option("weight_scales", help="One learned scale per kernel, or per layer.")
@_option(
    "weight_grid",
    help="full: all 2^b signed integers, 2 to 8 bits. odd: the odd integers around 0, 1 to 8 bits.",
)
@_option(
    "init",
    help="What scales and offsets start from. lsq+: 3 sigma of the weights, least squared error of the "
    "activations. mse: least squared error of both. lsq: mean magnitude. minmax: smallest and largest value.",
)
@_option(
    "patience", type=int,
    help="Go on to the last epochs, in integers, after so many without a better held-out metric.",
)  # fmt: skip
@_option(
    "epochs", type=int,
    help="Epochs of training: impq after every change of widths; the others in all. 0: no training; fat: the "
    "smallest thresholds that clip nothing.  [default: impq 2; lsq, lsq+ 5; adaqat 10, from scratch 30; fat "
    "as many as come next to 800 batches]",
)  # fmt: skip
@_option("epoch_samples", type=int, help="Samples drawn for one epoch.  [default: all]")
@_option("batch_size", type=int, help="Samples per batch.")
@_option("accumulate", type=int, help="Batches whose mean gradient makes one step.")
@_option("optimizer", help="SGD with momentum, or AdamW.")
@_option(
    "lr", type=float, help="Peak learning rate.  [default: sgd 0.01, from scratch 0.1; adamw, fat 0.001]"
)
@_option(
    "weight_decay", type=float, help="Of kernels, matrices, clips; scales, offsets and biases have none."
)
@_option(
    "mixed_precision",
    help="What layers multiply in while training, but for the last epochs, in integers; fp16 needs a GPU.",
)
@_option(
    "loss", metavar="FUNCTION",
    help="What training makes smaller, instead of cross entropy or the distance to the float model: a "
    "function of outputs, the teacher's outputs and labels: package.module:callable, FILE.py:callable.",
)  # fmt: skip
@_option("distill", is_flag=True, help="Learn from the float model even where there are labels.")
@_option("tensorboard", is_flag=True, help="Write TensorBoard files as well.")
@_option("target", help="What it is to run on; see `mpqtool lower --help`.")
@_option(
    "lower",
    help="full: all that can be is integer; fastest: what is slower in integers on this machine stays float.",
)
@vnni_option
@_option("out", "-o", type=click.Path(), metavar="DIR", help="Run directory.  [default: MODEL_STEM.mpq]")
@_option("resume", is_flag=True, help="Go on from the checkpoint in the run directory.")
@_option("seed", type=int, help="Seed of every random choice.")
@json_option
def command(model: str, as_json: bool, **options: Any) -> None:
    """Quantize the float ONNX file MODEL: learn bit-widths or scales, lower to integers, verify.

    The run directory gets plan.json, model.qdq.onnx, model.int.onnx, result.json, report.html and
    log.jsonl. model.int.onnx is put there only after torch, numpy and ONNX Runtime gave the same integers.
    """
    _refuse_idle(options)
    with heavy_imports():
        import mpqtool.pipeline  # noqa: F401  # what api.quantize loads
        from mpqtool import api
        from mpqtool.processes import is_main
        from mpqtool.reporter import Reporter

    result = api.quantize(model, reporter=Reporter(), **options)
    if not is_main():
        return
    if as_json:
        echo_json(result.result)
    else:
        echo_summary(str(result.path), result.result)


def _refuse_idle(options: dict[str, Any]) -> None:
    """Refuse what was typed and would do nothing, its default value too, which the options cannot tell."""
    context = get_current_context()
    method = method_of(options["method"], plan=options["plan"])
    for name in options:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            idle = why_without_effect(name, method)
            if idle is not None:
                raise OptionError(idle)
