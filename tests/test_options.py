"""Options: bit-widths and ranges."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import Any, get_args

import pytest

from mpqtool.errors import OptionError
from mpqtool.method_options import BITS, EPOCHS, GRANULARITY, METHODS_OF, START_BITS
from mpqtool.methods.budgets import PHASES
from mpqtool.methods.ptq import Rounding
from mpqtool.methods.sensitivity import RANKS, SENSITIVITIES
from mpqtool.option_checks import STEPS
from mpqtool.options import CHOICES, METHODS, QuantizeOptions, parse_bits
from mpqtool.passes.plan import Grid
from mpqtool.quantizers.initialize import INITS
from mpqtool.quantizers.ranges import RANGES, Ranges


@pytest.mark.parametrize(
    ("text", "bits"),
    [("W4A8", (4, 8)), ("w3a6", (3, 6)), ("W2.5A6.25", (2.5, 6.25)), (" W1A1 ", (1, 1))],
)
def test_parse_bits(text: str, bits: tuple[float, float]) -> None:
    assert parse_bits(text) == bits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4/8", "'4/8' is not a pair of bit-widths; write W3A6"),
        ("W4", "is not a pair"),
        ("A8W4", "is not a pair"),
        ("W-1A8", "is not a pair"),
        ("W0A8", "weight bits must be 1 to 8, got 0"),
        ("W4A8.5", "activation bits must be 1 to 8, got 8.5"),
    ],
)
def test_parse_bits_refuses(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_bits(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, r"method must be one of impq, lsq, lsq\+, adaqat, ptq, fat, got 'magic'"),
        ({"config": "5"}, "config must be one of auto, 1, 2, 3, 4, got '5'"),
        ({"config": 4}, "config must be of type str, got 4"),
        ({"weight_scales": "tensor"}, "weight_scales must be one of kernel, layer, got 'tensor'"),
        ({"weight_grid": "signed"}, "weight_grid must be one of full, odd, got 'signed'"),
        ({"init": "max"}, r"init must be one of lsq\+, mse, lsq, minmax, got 'max'"),
        ({"granularity": "channel"}, "granularity must be one of network, layer, kernel, got 'channel'"),
        ({"activation_granularity": "kernel"}, "must be one of auto, network, layer, got 'kernel'"),
        ({"hardware": "energy"}, "hardware must be one of bitops, size, latency, got 'energy'"),
        ({"optimizer": "adam"}, "optimizer must be one of sgd, adamw, got 'adam'"),
        ({"mixed_precision": "fp8"}, "mixed_precision must be one of no, bf16, fp16, got 'fp8'"),
        ({"target": "tpu"}, "target must be one of cpu, standard, cuda, got 'tpu'"),
        ({"lower": "half"}, "lower must be one of full, fastest, got 'half'"),
        ({"lower": "fastest", "target": "cuda"}, "measures files for target 'cpu', got 'cuda'"),
        ({"start_bits": "W3.5A8"}, "start_bits are uniform, so whole numbers, got 'W3.5A8'"),
        ({"target_bits": "W5A6"}, "'W5A6' must not exceed start_bits 'W4A8'"),
        ({"target_bits": "W3A8", "start_bits": "W4A7"}, "must not exceed"),
        ({"method": "adaqat", "start_bits": "W4A1"}, "start_bits 'W4A1': activation bits must be 2 to 8"),
        ({"target_bits": "W0.8A6"}, "weight bits must be 1 to 8, got 0.8"),
        ({"start_bits": "W4A1"}, "start_bits 'W4A1': activation bits must be 2 to 8"),
        ({"target_bits": "W3A1.5"}, "target_bits 'W3A1.5': activation bits must be 2 to 8"),
        ({"method": "adaqat", "start_bits": "W4.5A8"}, "start_bits are uniform, so whole numbers"),
        (
            {"method": "adaqat", "from_scratch": True, "epochs": 0},
            "epochs must be at least 1 with from_scratch",
        ),
        ({"method": "adaqat", "lambda_": 0}, "^lambda must be positive and finite, got 0$"),
        ({"method": "adaqat", "lambda_": float("nan")}, "^lambda must be positive and finite, got nan$"),
        ({"method": "adaqat", "lambda_": "much"}, "^lambda must be of type float, got 'much'$"),
        ({"method": "adaqat", "from_scratch": 1}, "from_scratch must be of type bool, got 1"),
        (
            {"method": "adaqat", "hardware": "size", "activation_granularity": "layer"},
            "activation_granularity has no effect with hardware 'size', .* choose hardware 'bitops' or",
        ),
        ({"first": "biases"}, "first must be one of weights, activations, got 'biases'"),
        ({"sensitivity": "hessian"}, "sensitivity must be one of bound, paper, repo, got 'hessian'"),
        ({"rank": "bytes"}, "rank must be one of bits, macs, group, got 'bytes'"),
        ({"clip": "4 rms"}, "clip must be one of mse, paper4rms, max, got '4 rms'"),
        ({"activation_clip": "max"}, "activation_clip must be one of mse, 6sigma, got 'max'"),
        ({"step_groups": 0}, "step_groups must be at least 1, got 0"),
        ({"step_sensitivity": 0.0}, "step_sensitivity must be positive and finite, got 0.0"),
        ({"step_mismatch": float("inf")}, "step_mismatch must be positive and finite, got inf"),
        ({"prune": True, "granularity": "layer"}, "got 'layer' and 'bound'; leave prune out, or these"),
        ({"prune": True, "sensitivity": "repo"}, "got 'kernel' and 'repo'; leave prune out, or these"),
        ({"take": -1}, "take must be at least 0, got -1"),
        (
            {"take": 2, "resume": True},
            "take makes files of an iteration that is there, resume goes on; leave",
        ),
        (
            {"method": "impq", "plan": "p.json", "start_bits": "W4A8"},
            "a plan has the widths to start from, as start_bits has; leave one out",
        ),
        ({"method": "fat", "bits": "W1A8"}, "'W1A8': on the full grid weight bits must be 2 to 8"),
        ({"method": "fat", "bits": "W8A1"}, "'W8A1': activation bits must be 2 to 8"),
        ({"method": "fat", "plan": "p.json"}, "plan is for no method, which applies it as it is"),
        ({"method": "lsq", "plan": "p.json"}, "plan is for no method, which applies it as it is"),
        ({"method": "adaqat", "plan": "p.json"}, "or for 'impq', which goes on from it; got 'adaqat'"),
        ({"target_size": 0}, "target_size must be at least 1, got 0"),
        ({"target_bitops": -1.0}, "target_bitops must be positive and finite, got -1.0"),
        (
            {"step_groups": 5, "step_mismatch": 0.1},
            "step_groups and step_mismatch are two rules for one thing",
        ),
        (
            {"step_mismatch": 0.1, "sensitivity": "repo"},
            "got sensitivity 'repo'; choose sensitivity 'bound', or",
        ),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": 2**32}, "seed must be at most 4294967295, got 4294967296"),
        ({"seed": True}, "seed must be of type int, got True"),
        ({"epochs": -1}, "epochs must be at least 0"),
        ({"epochs": 2.5}, "epochs must be of type int, got 2.5"),
        ({"epoch_samples": 0}, "epoch_samples must be at least 1, got 0"),
        ({"epoch_samples": "all"}, "epoch_samples must be of type int, got 'all'"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"batch_size": None}, "batch_size must be of type int, got None"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"max_drop": -0.5}, "max_drop must be at least 0"),
        ({"max_drop": float("nan")}, "max_drop must be at least 0"),
        ({"weight_decay": -1e-4}, "weight_decay must be at least 0, got -0.0001"),
        ({"weight_decay": float("inf")}, "weight_decay must be at least 0, got inf"),
        ({"lr": 0.0}, "lr must be positive and finite"),
        ({"lr": float("inf")}, "lr must be positive and finite"),
        ({"lr": "fast"}, "lr must be of type float, got 'fast'"),
        ({"resize": (0, 4)}, "resize must be a height and a width"),
        ({"mean": (float("nan"),)}, "mean must be finite"),
        ({"std": (0.0,)}, "std must be positive"),
        ({"method": "lsq", "bits": "W4.5A4"}, "bits are uniform, so whole numbers, got 'W4.5A4'"),
        ({"method": "lsq", "bits": "W4A9"}, "activation bits must be 1 to 8, got 9"),
        ({"method": "lsq", "bits": "W1A4"}, "'W1A4': on the full grid weight bits must be 2 to 8; .* 'odd'"),
        ({"method": "lsq", "config": "3"}, r"'3' learns offsets, .* method 'lsq\+', or config auto, 1 or 2"),
        ({"method": "lsq", "config": "4"}, "config '4' learns offsets, which method 'lsq' has not"),
        ({"method": "lsq+", "patience": 0}, "patience must be at least 1, got 0"),
        (
            {"method": "lsq+", "patience": 3, "epochs": 0},
            "less than the 0 epochs that can end early of epochs 0",
        ),
        ({"method": "lsq", "patience": 4}, "less than the 4 epochs that can end early of epochs 5, got 4"),
        ({"method": "lsq", "patience": 16, "epochs": 20}, "less than the 16 epochs"),
        (
            {"method": "ptq", "ranges": "max"},
            "ranges must be one of auto, mse, fisher, percentile, entropy, minmax, got 'max'",
        ),
        ({"method": "ptq", "rounding": "up"}, "rounding must be one of auto, adaround, nearest, got 'up'"),
        ({"method": "ptq", "calibration_samples": 0}, "calibration_samples must be at least 1, got 0"),
        ({"method": "ptq", "bias_correction": "no"}, "bias_correction must be of type bool, got 'no'"),
        ({"method": "ptq", "bits": "W4.5A8"}, "bits are uniform, so whole numbers, got 'W4.5A8'"),
        ({"method": "ptq", "bits": "W1A8"}, "'W1A8': on the full grid weight bits must be 2 to 8$"),
        ({"method": "ptq", "bits": "W4A1"}, "bits 'W4A1': activation bits must be 2 to 8"),
        (
            {"method": "ptq", "bits": "W4A8", "target_size": 9},
            "target_size has no effect on uniform bits 'W4A8'; leave bits out, or give bits 'mixed'",
        ),
        ({"method": "lsq", "bits": "mixed"}, "bits 'mixed' is for method 'ptq', got 'lsq'; write W4A4"),
        ({"method": "ptq", "plan": "p.json"}, "plan is for no method, .* got 'ptq'; leave one out"),
        ({"mean": "abc"}, "mean must be a tuple of float, got 'abc'"),
        ({"mean": (None,)}, r"mean must be a tuple of float, got \(None,\)"),
        ({"std": ("a",)}, r"std must be a tuple of float, got \('a',\)"),
        ({"std": 0.5}, "std must be a tuple of float, got 0.5"),
        ({"resize": 5}, "resize must be a tuple of int, got 5"),
        ({"resize": (8.0, 8)}, r"resize must be a tuple of int, got \(8.0, 8\)"),
        ({"resize": (True, 8)}, "resize must be a tuple of int"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        QuantizeOptions(**options)
    assert "\n" not in str(caught.value)


def test_readme_has_every_option_of_a_method_with_its_default() -> None:
    readme = (pathlib.Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `--([a-z-]+)` \| ([^|]+) \| [^|]+ \|$", readme, re.MULTILINE)
    said = {name.replace("-", "_"): default.replace("`", "") for name, default in rows}
    said["lambda_"] = said.pop("lambda")
    named = [*METHODS_OF, *_BUDGETS]
    assert said.keys() == set(named)
    off = ("all_layers", "distill", "resume", "tensorboard", "from_scratch", "prune", "equalize")
    words = dict.fromkeys(off, "off")
    words |= {"epoch_samples": "all", "patience": "none", "start_bits": "; ".join(START_BITS.values())}
    words |= dict.fromkeys(("target_size", "target_bitops", "take", "loss", *STEPS), "none")
    words |= {"granularity": "; ".join(GRANULARITY.values()), "bits": "; ".join(dict.fromkeys(BITS.values()))}
    words |= {"bias_correction": "on"}
    words |= {"epochs": "; ".join(map(str, dict.fromkeys(EPOCHS.values()))), "lr": "0.01; 0.001"}
    assert said == {name: words.get(name, str(getattr(QuantizeOptions(), name))) for name in named}


def test_choices_are_those_of_the_parts_that_take_them() -> None:
    assert (CHOICES["sensitivity"], CHOICES["rank"], CHOICES["first"]) == (SENSITIVITIES, RANKS, PHASES)
    assert CHOICES["init"] == INITS
    assert CHOICES["ranges"] == ("auto", "mse", "fisher", *tuple(RANGES)[1:])
    assert tuple(RANGES) == get_args(Ranges)
    assert CHOICES["rounding"] == get_args(Rounding)
    assert {Grid(grid) for grid in CHOICES["weight_grid"]} == {Grid.FULL, Grid.ODD}


_BUDGETS = {"target_bits": "W2A5", "max_drop": 2.0, "target_size": 1000, "target_bitops": 1e6}
_OTHER_THAN_DEFAULT = {
    "start_bits": "W5A8", "bits": "W2A2", "config": "2",
    "weight_scales": "layer", "weight_grid": "odd", "all_layers": True, "init": "mse", "patience": 3,
    "epochs": 9, "epoch_samples": 7, "batch_size": 8, "accumulate": 2, "optimizer": "adamw", "lr": 0.5,
    "weight_decay": 0.0, "mixed_precision": "bf16", "distill": True, "resume": True, "tensorboard": True,
    "lambda_": 0.5, "granularity": "layer", "activation_granularity": "layer", "hardware": "latency",
    "from_scratch": True, "first": "activations",
    "sensitivity": "paper", "rank": "macs",
    "step_groups": 5, "step_sensitivity": 0.1, "step_mismatch": 0.01, "clip": "max",
    "activation_clip": "6sigma", "take": 3, "prune": True, "loss": "package.module:loss",
    "ranges": "entropy", "rounding": "nearest", "bias_correction": False, "calibration_samples": 99,
    "equalize": True, "min_sqnr": 12.0,
}  # fmt: skip


def test_every_option_of_a_method_is_tried_below() -> None:
    assert _OTHER_THAN_DEFAULT.keys() == METHODS_OF.keys()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", METHODS_OF)
def test_an_option_is_taken_by_its_methods_alone(method: str, name: str) -> None:
    options, said = {"method": method, name: _OTHER_THAN_DEFAULT[name]}, name.rstrip("_")
    if method in METHODS_OF[name]:
        made = QuantizeOptions(**options)
        assert getattr(made, name) == made.settings[said] == _OTHER_THAN_DEFAULT[name]
        return
    with pytest.raises(OptionError) as caught:
        QuantizeOptions(**options)
    assert str(caught.value) == (
        f"{said} has no effect with method {method!r}, only with {' and '.join(METHODS_OF[name])}; "
        f"choose another method, or leave {said} out"
    )
    assert said not in QuantizeOptions(method=method).settings


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", _BUDGETS)
def test_budgets_are_of_all_methods(method: str, name: str) -> None:
    made = QuantizeOptions(method=method, **{name: _BUDGETS[name]})
    assert getattr(made, name) == made.settings[name] == _BUDGETS[name]
    assert made.limits == {
        "target_bits": {"weights": 2.0, "activations": 5.0},
        "target_size": {"size": 1000.0},
        "target_bitops": {"bitops": 1e6},
    }.get(name, {"weights": 3.0, "activations": 6.0} if method == "impq" else {})


@pytest.mark.parametrize("name", METHODS_OF)
def test_a_plan_without_a_method_takes_no_option_of_one(name: str) -> None:
    said = name.rstrip("_")
    with pytest.raises(OptionError, match=f"^{said} has no effect with a plan and no method: .* 'impq', "):
        QuantizeOptions(plan="plan.json", **{name: _OTHER_THAN_DEFAULT[name]})


@pytest.mark.parametrize(("method", "bits"), BITS.items())
def test_bits_are_those_of_the_method(method: str, bits: str) -> None:
    made = QuantizeOptions(method=method)
    assert made.bits == made.settings["bits"] == bits
    assert QuantizeOptions(**dataclasses.asdict(made)) == made


def test_epochs_of_fat_wait_for_the_data() -> None:
    made = QuantizeOptions(method="fat")
    assert (made.epochs, made.lr) == (None, 0.001)
    assert dataclasses.replace(made, epochs=7).epochs == 7


def test_kernels_that_may_be_pruned_may_have_less_than_one_bit() -> None:
    assert QuantizeOptions(prune=True, target_bits="W0.5A6").target_bits == "W0.5A6"


def test_a_plan_is_gone_on_from_with_impq() -> None:
    options = QuantizeOptions(method="impq", plan="plan.json", target_bits="W2A4", take=3)
    assert (options.plan, options.start_bits, options.granularity) == ("plan.json", None, "kernel")
    assert QuantizeOptions(**dataclasses.asdict(options)) == options


def test_a_plan_takes_options_of_the_data_and_of_the_file() -> None:
    options = QuantizeOptions(plan="plan.json", resize=(8, 8), target="cuda", seed=3)
    assert options.settings == {
        "method": None, "data": None, "resize": (8, 8), "mean": None, "std": None, "metric": None,
        "out": None, "plan": "plan.json", "seed": 3, "target": "cuda", "lower": "full", "vnni": None,
        "target_bits": None, "target_size": None, "target_bitops": None, "max_drop": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "epochs", "lr"),
    [
        ({}, 2, 0.01),
        ({"method": "lsq"}, 5, 0.01),
        ({"method": "lsq+", "optimizer": "adamw"}, 5, 0.001),
        ({"optimizer": "adamw"}, 2, 0.001),
        ({"method": "lsq", "epochs": 0, "lr": 1}, 0, 1),
        ({"method": "adaqat"}, 10, 0.01),
        ({"method": "adaqat", "from_scratch": True}, 30, 0.1),
        ({"method": "adaqat", "from_scratch": True, "optimizer": "adamw"}, 30, 0.001),
        ({"method": "adaqat", "from_scratch": True, "epochs": 3, "lr": 0.2}, 3, 0.2),
    ],
)
def test_epochs_and_lr_are_numbers(options: dict[str, Any], epochs: int, lr: float) -> None:
    made = QuantizeOptions(**options)
    assert (made.epochs, made.lr) == (epochs, lr)
    assert (made.settings["epochs"], made.settings["lr"]) == (epochs, lr)
    assert QuantizeOptions(**dataclasses.asdict(made)) == made


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({}, "W3A6"),
        ({"target_size": 9}, None),
        ({"target_bitops": 9}, None),
        ({"target_size": 9, "target_bits": "W2A4"}, "W2A4"),
        ({"method": "lsq"}, None),
        ({"method": "ptq", "bits": "mixed"}, None),
        ({"method": "impq", "plan": "p.json"}, "W3A6"),
    ],
)
def test_target_bits_are_the_budget_where_no_other_is_given(
    options: dict[str, Any], bits: str | None
) -> None:
    made = QuantizeOptions(**options)
    assert made.target_bits == bits
    assert QuantizeOptions(**dataclasses.asdict(made)) == made


@pytest.mark.parametrize(("method", "granularity"), [("impq", "kernel"), ("adaqat", "network")])
def test_the_granularity_depends_on_the_method(method: str, granularity: str) -> None:
    assert QuantizeOptions(method=method).settings["granularity"] == granularity
    assert QuantizeOptions(method=method, granularity="layer").settings["granularity"] == "layer"


@pytest.mark.parametrize(("method", "bits"), [("impq", "W4A8"), ("adaqat", "W8A8")])
def test_the_start_depends_on_the_method(method: str, bits: str) -> None:
    made = QuantizeOptions(method=method)
    assert made.start_bits == made.settings["start_bits"] == bits
    assert QuantizeOptions(method=method, start_bits="W5A8").settings["start_bits"] == "W5A8"


@pytest.mark.parametrize(
    ("method", "plan"), [*((method, None) for method in METHODS), ("impq", "plan.json"), (None, "plan.json")]
)
def test_options_of_any_method_are_made_again(method: str | None, plan: str | None) -> None:
    """As ``--resume`` and the Python API do; none of the defaults put in is then one of another method."""
    options = QuantizeOptions(method=method, plan=plan)
    assert QuantizeOptions(**dataclasses.asdict(options)) == options


@pytest.mark.parametrize(
    "options",
    [
        {"method": "lsq", "bits": "W2A8"},
        {"method": "lsq", "bits": "W1A8", "weight_grid": "odd"},
        {"method": "lsq", "config": "2"},
        {"method": "lsq", "patience": 15, "epochs": 20},
        {"method": "lsq+", "patience": 1, "epochs": 2},
        {"method": "adaqat", "start_bits": "W1A2", "lambda_": 1},
        {"method": "adaqat", "hardware": "size", "granularity": "kernel"},
        {"method": "adaqat", "granularity": "network", "activation_granularity": "layer"},
        {"mean": (0, 0.5, 1), "std": (0.5,), "resize": (8, 9)},
        *({"method": "lsq+", "config": config} for config in CHOICES["config"]),
    ],
)
def test_takes(options: dict[str, Any]) -> None:
    made = QuantizeOptions(**options)
    assert {name: getattr(made, name) for name in options} == options
