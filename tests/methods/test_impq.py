"""Algorithm 1 on a network small enough to see what it does."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from graphs import residual_cnn
from torch import fx

from mpqtool.checkpoint import Checkpoint
from mpqtool.data import Split
from mpqtool.importer import import_graph
from mpqtool.methods.impq import Impq, ImpqSettings
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.quantizers.attach import activation_quantizers, attach, read_plan, weight_quantizers
from mpqtool.reporter import Reporter
from mpqtool.training import Trainer


def _impq(
    *, held_out: Callable[[fx.GraphModule], float] = lambda network: 90.0, **settings: float
) -> tuple[Impq, list[Checkpoint]]:
    rng = np.random.default_rng(0)
    model = residual_cnn(rng)
    plan = place(model, weight_bits=4, activation_bits=8, grid=Grid.ODD)
    network = attach(import_graph(model), plan)
    split = Split({"x": rng.normal(size=(64, 2, 8, 8)).astype(np.float32)}, rng.integers(0, 5, 64))
    trainer = Trainer(
        split, teacher=None, batch_size=32, epoch_samples=None, seed=0, reporter=Reporter(silent=True)
    )
    saved: list[Checkpoint] = []

    def save(checkpoint: Checkpoint) -> None:  # as a file would hold it: what comes later does not change it
        tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
        saved.append(Checkpoint(tensors, copy.deepcopy(checkpoint.state)))

    given = {
        "target_weights": 3.0,
        "target_activations": 6.0,
        "max_drop": 1.0,
        "epochs": 1,
        "lr": 0.01,
        "seed": 0,
    }
    method = Impq(
        network, trainer, held_out=held_out, batches=lambda: trainer.batches_of(split),
        settings=ImpqSettings(
            **given | settings, fixed_activations=frozenset({"x"}), free_activations=frozenset(),
            float_metric=90.0,
        ),
        reporter=Reporter(silent=True), save=save,
    )  # fmt: skip
    return method, saved


def test_reaches_both_targets_without_passing_below_by_more_than_a_group() -> None:
    method, _ = _impq()
    history = method.run()
    bits = method._bits()
    weights = sum(len(q.bits) * q.elements for q in weight_quantizers(method.network))
    largest = max(q.elements for q in weight_quantizers(method.network))
    assert 3.0 - largest / weights <= bits["weights_eff"] <= 3.0
    assert bits["activations_eff"] <= 6.0
    assert [row["phase"] for row in history] == sorted(
        (row["phase"] for row in history), key=["start", "weights", "activations"].index
    )
    effective = [(row["weights_eff"], row["activations_eff"]) for row in history]
    assert effective == sorted(effective, reverse=True)


def test_the_input_keeps_its_width() -> None:
    method, _ = _impq(target_activations=3.0)
    method.run()
    widths = {q.name: int(q.bits) for q in activation_quantizers(method.network)}
    assert widths.pop("x") == 8
    assert max(widths.values()) < 8


def test_takes_bits_from_the_least_sensitive_kernels_first() -> None:
    method, _ = _impq()
    method._set_start_widths()
    method.state.phase = "weights"
    from mpqtool.methods.noise_gain import noise_gains

    gains = noise_gains(method.network, method.batches(), seed=method.state.iteration)
    sensitivity = {
        (group.quantizer.name, group.index): group.sensitivity(gains) for group in method._groups("weights")
    }
    method._reduce_precision()
    taken = [
        sensitivity[quantizer.name, index]
        for quantizer in weight_quantizers(method.network)
        for index, bits in enumerate(quantizer.bits.tolist())
        if bits == 3
    ]
    left = sorted(sensitivity.values())[len(taken) :]
    assert len(taken) == round(0.5 * len(sensitivity))
    assert max(taken) <= min(left)


def test_rolls_back_what_held_out_data_refuse_and_stops_after_two() -> None:
    def held_out(network: fx.GraphModule) -> float:
        widths = torch.cat([q.bits for q in weight_quantizers(network)])
        return 90.0 if bool((widths == 4).all()) else 80.0

    method, _ = _impq(held_out=held_out, target_activations=8.0)
    history = method.run()
    weights = [row for row in history if row["phase"] == "weights"]
    assert [row["accepted"] for row in weights] == [False, False]
    assert weights[1]["reduced"] == pytest.approx(weights[0]["reduced"] / 2, abs=1)
    assert all(set(q.bits.tolist()) == {4} for q in weight_quantizers(method.network))


def test_a_run_that_goes_on_ends_in_the_same_plan() -> None:
    method, saved = _impq(epochs=2)
    method.run()
    expected = read_plan(method.network).to_json()
    assert len(saved) > 6
    for checkpoint in (saved[0], saved[3], saved[-1]):
        again, _ = _impq(epochs=2)
        again.resume(checkpoint)
        again.run()
        assert read_plan(again.network).to_json() == expected
