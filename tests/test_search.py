"""Options reach the method that they steer."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from swish_network import swish_network, swish_split

from mpqtool import search
from mpqtool.job import Job, prepare
from mpqtool.methods.adaqat import AdaQat
from mpqtool.methods.impq import Impq
from mpqtool.methods.lsq import Lsq
from mpqtool.methods.selection import Step
from mpqtool.optimization import Recipe
from mpqtool.options import QuantizeOptions
from mpqtool.passes.normalize.fold_batch_norm import batch_norm_factors
from mpqtool.passes.plan import Grid
from mpqtool.quantizers import ActivationQuantizer, Gain, LsqWeightQuantizer, OffsetQuantizer, PactQuantizer
from mpqtool.quantizers.attach import activation_quantizers, weight_quantizers
from mpqtool.reporter import Reporter

TRAINING = {
    "epochs": 10, "lr": 0.125, "batch_size": 8, "epoch_samples": 24, "seed": 7, "optimizer": "adamw",
    "weight_decay": 0.25, "accumulate": 3, "mixed_precision": "bf16", "distill": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder, rng = tmp_path_factory.mktemp("search"), np.random.default_rng(0)
    ir.save(swish_network(rng), folder / "m.onnx")
    split = swish_split(rng, 60)
    np.savez(folder / "m.npz", x=split.inputs["x"], label=split.labels)
    return folder / "m.onnx"


def _begun(model: pathlib.Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Job, Any]:
    """The method as ``search`` makes it of these options; it does not run."""
    made: list[Lsq | Impq | AdaQat] = []
    for kind in (Lsq, Impq, AdaQat):
        monkeypatch.setattr(kind, "run", lambda method: made.append(method) or [])
    job = prepare(model, QuantizeOptions(**options), Reporter(silent=True))
    search.search(job)
    (method,) = made
    return job, method


@pytest.mark.parametrize("method", search._METHODS)
def test_options_of_the_training(model: pathlib.Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr("mpqtool.training.check_precision", lambda *_: None)  # a CPU need not have bf16
    job, begun = _begun(model, monkeypatch, method=method, **TRAINING)
    for trainer, precision in (
        (begun.trainer, "bf16"),
        (search.make_trainer(job, job.data.train), "no"),  # of the last epochs, in integers
    ):
        assert trainer.recipe == Recipe(
            optimizer="adamw", weight_decay=0.25, accumulate=3, mixed_precision=precision
        )
        assert (trainer.batch_size, trainer.epoch_samples, trainer.seed) == (8, 24, 7)
        assert trainer.teacher is not None
    assert begun.settings.lr == 0.125
    assert begun.settings.epochs == (10 if method == "impq" else 8)
    plain = _begun(model, monkeypatch, method=method)[1].trainer
    assert plain.teacher is None  # there are labels


@pytest.mark.parametrize("init", ["lsq+", "mse", "lsq", "minmax"])
def test_settings_of_lsq_plus(model: pathlib.Path, monkeypatch: pytest.MonkeyPatch, init: str) -> None:
    _, begun = _begun(model, monkeypatch, method="lsq+", init=init, patience=3, epochs=10)
    found = dataclasses.asdict(begun.settings)
    assert found.pop("configured")
    assert 0 <= found.pop("float_metric") <= 100
    assert "x" not in begun.settings.configured
    assert found.pop("free") is not None
    assert found.pop("way_out") == "wider --bits"
    assert found == {"init": init, "epochs": 8, "lr": 0.01, "span": (0.0, 0.8), "patience": 3}


def test_settings_of_impq(model: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"start_bits": "W5A7", "target_bits": "W2.5A4", "max_drop": 2.5, "seed": 3, "epochs": 1}
    _, begun = _begun(model, monkeypatch, method="impq", **options)
    settings = begun.settings
    reduction = settings.reduction
    assert settings.budgets.limits == {"weights": 2.5, "activations": 4}
    assert (settings.max_drop, reduction.seed, settings.epochs) == (2.5, 3, 1)
    assert reduction.fixed - settings.budgets.free == {"x"}
    assert (reduction.granularity, reduction.costs, reduction.step) == ("kernel", (), Step())
    assert {w.grid for w in weight_quantizers(begun.network)} == {Grid.ODD}
    assert {b for w in weight_quantizers(begun.network) for b in w.bits.tolist()} == {5}
    multiplied = [a for a in activation_quantizers(begun.network) if a.name not in reduction.fixed]
    assert {int(a.bits) for a in multiplied} == {7}


def test_more_settings_of_impq(model: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {
        "granularity": "layer", "sensitivity": "repo", "rank": "macs", "step_groups": 9, "clip": "max",
        "activation_clip": "6sigma", "first": "activations", "target_size": 100, "target_bitops": 1e5,
    }  # fmt: skip
    job, begun = _begun(model, monkeypatch, method="impq", **options)
    settings, reduction = begun.settings, begun.settings.reduction
    assert settings.budgets.limits == {"size": 100, "bitops": 1e5}
    assert settings.first == "activations"
    assert begun.order == ["activations", "weights"]
    assert reduction.step == Step(groups=9)
    assert [cost.weight for cost in reduction.costs] == [entry.name for entry in job.plan.weights]
    for name in ("granularity", "sensitivity", "rank", "clip", "activation_clip"):
        assert getattr(reduction, name) == options[name]


def test_a_search_goes_on_from_the_scales_of_a_plan(
    model: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    job, _ = _begun(model, monkeypatch, method="impq")
    rng = np.random.default_rng(1)
    weights = [
        entry.model_copy(update={"scale": tuple(rng.uniform(0.1, 1, len(entry.bits))), "shift": 2})
        for entry in job.plan.weights
    ]
    given = job.plan.replaced(weights=[*weights[:-1], job.plan.weights[-1]])  # the last is left open
    (tmp_path / "plan.json").write_text(given.to_json())

    job, begun = _begun(model, monkeypatch, method="impq", plan=str(tmp_path / "plan.json"))

    assert job.plan == given
    factors = batch_norm_factors(job.model)
    assert factors.keys() == {"w0", "w1", "w2"}
    *scaled, last = weight_quantizers(begun.network)
    for quantizer, entry in zip(scaled, given.weights, strict=False):
        assert quantizer.shift == 0
        # BatchNormalization is not folded: what it multiplies is not in the scale yet.
        np.testing.assert_allclose(
            quantizer.scale.numpy() * np.abs(factors.get(entry.name, 1)), entry.scale, rtol=1e-6
        )
    assert last.scale.isnan().all()
    again = _begun(model, monkeypatch, method="impq")[0]
    assert again.identity != job.identity
    assert job.identity["options"]["plan"] == given.to_json()


def _weights(begun: Lsq | Impq) -> list[LsqWeightQuantizer]:
    return [w for w in weight_quantizers(begun.network) if isinstance(w, LsqWeightQuantizer)]


@pytest.mark.parametrize("grid", ["full", "odd"])
@pytest.mark.parametrize("scales", ["kernel", "layer"])
@pytest.mark.parametrize("all_layers", [False, True])
def test_weights_of_lsq_plus(
    model: pathlib.Path, monkeypatch: pytest.MonkeyPatch, grid: str, scales: str, all_layers: bool
) -> None:
    options = {"weight_grid": grid, "weight_scales": scales, "all_layers": all_layers, "bits": "W3A5"}
    weights = _weights(_begun(model, monkeypatch, method="lsq+", **options)[1])
    ends = 3 if all_layers else 8
    assert [int(w.bits[0]) for w in weights] == [ends, 3, 3, 3, ends]
    assert {w.grid for w in weights} == {Grid(grid)}
    assert [len(w.scale) for w in weights] == ([4, 4, 4, 4, 3] if scales == "kernel" else [1] * 5)


@pytest.mark.parametrize(
    ("method", "config", "lows", "zero_points"),
    [
        ("lsq+", "auto", {0}, {0}), ("lsq+", "1", set(), {0}), ("lsq+", "2", set(), {16}),
        ("lsq+", "3", {-16}, set()), ("lsq+", "4", {0}, set()), ("lsq", "auto", set(), {0}),
    ],
)  # fmt: skip
def test_activations_of_lsq_plus(
    model: pathlib.Path, monkeypatch: pytest.MonkeyPatch,
    method: str, config: str, lows: set[int], zero_points: set[int],
) -> None:  # fmt: skip
    _, begun = _begun(model, monkeypatch, method=method, config=config, bits="W3A5", all_layers=True)
    configured = [q for q in activation_quantizers(begun.network) if q.name in begun.settings.configured]
    assert {q.low for q in configured if isinstance(q, OffsetQuantizer)} == lows
    assert {int(q.zero_point) for q in configured if not isinstance(q, OffsetQuantizer)} == zero_points
    assert {int(q.bits) for q in configured} == {5}


@pytest.mark.parametrize(
    ("options", "weights", "activations"),
    [
        ({}, "network", "network"),
        ({"granularity": "layer"}, "layer", "layer"),
        ({"granularity": "kernel"}, "kernel", "layer"),
        ({"granularity": "kernel", "activation_granularity": "network"}, "kernel", "network"),
        ({"activation_granularity": "layer"}, "network", "layer"),
        ({"granularity": "layer", "hardware": "size"}, "layer", None),
    ],
)
def test_settings_of_adaqat(
    model: pathlib.Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], weights: str,
    activations: str | None,
) -> None:  # fmt: skip
    _, begun = _begun(
        model, monkeypatch, method="adaqat", lambda_=0.25, seed=5, epochs=10, batch_size=8, **options
    )
    settings, search_settings = begun.settings, begun.settings.search
    assert dataclasses.asdict(search_settings) == {
        "balance": 0.25, "weights": weights, "activations": activations, "least_weights": 1,
        "least_activations": 2, "steps": begun.trainer.steps(6),
    }  # fmt: skip
    assert begun.trainer.steps(6) == 6 * begun.trainer.steps_per_epoch
    assert (settings.epochs, settings.lr, settings.span, settings.clip) == (8, 0.01, (0.0, 0.8), None)
    assert sum(cost.share for cost in settings.costs) == pytest.approx(1)
    kinds = {variable.kind for variable in begun.search.variables}
    assert kinds == ({"weights"} if activations is None else {"weights", "activations"})


@pytest.mark.parametrize("all_layers", [False, True])
def test_widths_that_adaqat_begins_with(
    model: pathlib.Path, monkeypatch: pytest.MonkeyPatch, all_layers: bool
) -> None:
    _, begun = _begun(model, monkeypatch, method="adaqat", start_bits="W5A6", all_layers=all_layers)
    ends = 5 if all_layers else 8
    assert [set(w.bits.tolist()) for w in weight_quantizers(begun.network)] == [{ends}, {5}, {5}, {5}, {ends}]
    assert [cost.weight for cost in begun.settings.costs] == (
        ["w0", "w1", "w2", "w3", "w4"] if all_layers else ["w1", "w2", "w3"]
    )
    learned = {member.name: member for v in begun.search.variables for member in v.members}
    assert {int(q.bits) for q in learned.values() if isinstance(q, PactQuantizer)} == {6}
    (image,) = [q for q in activation_quantizers(begun.network) if q.name == "x"]
    assert isinstance(image, ActivationQuantizer)
    assert int(image.bits) == 8
    assert not image.learned_scale.requires_grad  # the data do not change


def test_weights_of_adaqat_are_those_of_the_file(
    model: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, begun = _begun(model, monkeypatch, method="adaqat")
    parameters = dict(begun.network.named_parameters())
    for name in ("w0", "w4"):
        np.testing.assert_array_equal(
            parameters[name].detach().numpy(), job.model.graph.initializers[name].const_value.numpy()
        )
    # Nothing behind the last layer hides its gain.
    assert [w.gain for w in weight_quantizers(begun.network)] == [Gain.ONE] * 4 + [Gain.LEAST_SQUARES]


def test_from_scratch_nothing_is_left_of_the_file(
    model: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, begun = _begun(model, monkeypatch, method="adaqat", from_scratch=True, seed=3)
    drawn = {name: tensor.detach().numpy() for name, tensor in begun.network.named_parameters()}
    for name in ("w0", "w1", "w2", "w3", "w4"):
        assert not np.isin(drawn[name], job.model.graph.initializers[name].const_value.numpy()).any()
    assert not drawn["bias4"].any()
    assert begun.settings.clip == 8.0
    assert begun.settings.epochs == 0.8 * 30
    assert [w.gain for w in weight_quantizers(begun.network)] == [Gain.ONE] * 4 + [Gain.CONSTANT]
    again = _begun(model, monkeypatch, method="adaqat", from_scratch=True, seed=3)[1]
    for name, tensor in again.network.named_parameters():
        np.testing.assert_array_equal(tensor.detach().numpy(), drawn[name])
