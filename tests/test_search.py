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
from mpqtool.methods.impq import Impq
from mpqtool.methods.lsq import Lsq
from mpqtool.optimization import Recipe
from mpqtool.options import QuantizeOptions
from mpqtool.passes.plan import Grid
from mpqtool.quantizers import LsqWeightQuantizer, OffsetQuantizer
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


def _begun(model: pathlib.Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Job, Lsq | Impq]:
    """The method as ``search`` makes it of these options; it does not run."""
    made: list[Lsq | Impq] = []
    for kind in (Lsq, Impq):
        monkeypatch.setattr(kind, "run", lambda method: made.append(method) or [])
    job = prepare(model, QuantizeOptions(**options), Reporter(silent=True))
    search.search(job)
    (method,) = made
    return job, method


@pytest.mark.parametrize("method", ["impq", "lsq", "lsq+"])
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
    assert found == {"init": init, "epochs": 8, "lr": 0.01, "span": (0.0, 0.8), "patience": 3}


def test_settings_of_impq(model: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"start_bits": "W5A7", "target_bits": "W2.5A4", "max_drop": 2.5, "seed": 3, "epochs": 1}
    _, begun = _begun(model, monkeypatch, method="impq", **options)
    settings = begun.settings
    assert (settings.target_weights, settings.target_activations) == (2.5, 4)
    assert (settings.max_drop, settings.seed, settings.epochs) == (2.5, 3, 1)
    assert settings.fixed_activations == {"x"}
    assert {w.grid for w in weight_quantizers(begun.network)} == {Grid.ODD}
    assert {b for w in weight_quantizers(begun.network) for b in w.bits.tolist()} == {5}
    fixed = settings.free_activations | settings.fixed_activations
    multiplied = [a for a in activation_quantizers(begun.network) if a.name not in fixed]
    assert {int(a.bits) for a in multiplied} == {7}


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
