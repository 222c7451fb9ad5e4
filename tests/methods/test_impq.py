"""Algorithm 1 on a network small enough to see what it does."""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from adaqat_runs import Listener
from graphs import residual_cnn
from torch import fx

from mpqtool.checkpoint import Checkpoint
from mpqtool.data import Split
from mpqtool.hardware import layer_costs
from mpqtool.importer import import_graph
from mpqtool.methods.activation_clips import six_sigma_clips
from mpqtool.methods.budgets import Budgets
from mpqtool.methods.impq import Impq
from mpqtool.methods.impq_settings import ImpqSettings
from mpqtool.methods.noise_gain import NoiseGains, noise_gains
from mpqtool.methods.reduction import ReductionSettings
from mpqtool.methods.selection import Step
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.prices import make_prices
from mpqtool.quantizers.attach import (
    activation_quantizers,
    attach,
    plain_activations,
    plain_weights,
    read_plan,
    weight_quantizers,
)
from mpqtool.quantizers.clips import clipped_scale
from mpqtool.reporter import Reporter
from mpqtool.training import Trainer


def _impq(
    *,
    held_out: Callable[[fx.GraphModule], float] = lambda network: 90.0,
    limits: dict[str, float] | None = None,
    reporter: Reporter | None = None,
    first: str = "weights",
    max_drop: float = 1.0,
    epochs: int = 1,
    kept: dict[int, Checkpoint] | None = None,
    **reduction: Any,
) -> tuple[Impq, list[Checkpoint]]:
    """A search that has not begun, and what it will save."""
    kept = {} if kept is None else kept
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

    def keep(iteration: int, checkpoint: Checkpoint) -> None:
        kept[iteration] = copy.deepcopy(checkpoint)

    method = Impq(
        network, trainer, held_out=held_out, batches=lambda: trainer.batches_of(split),
        settings=ImpqSettings(
            reduction=ReductionSettings(fixed=frozenset({"x"}), **reduction),
            budgets=Budgets(
                limits={"weights": 3.0, "activations": 6.0} if limits is None else limits,
                prices=make_prices(model, plan, {}), free=frozenset(),
            ),
            first=first, max_drop=max_drop, epochs=epochs, lr=0.01, float_metric=90.0,
        ),
        reporter=reporter or Reporter(silent=True), save=save, keep=keep,
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
    method, _ = _impq(limits={"weights": 4.0, "activations": 3.0})
    method.run()
    widths = {q.name: int(q.bits) for q in activation_quantizers(method.network)}
    assert widths.pop("x") == 8
    assert max(widths.values()) < 8


def test_takes_bits_from_the_least_sensitive_kernels_first() -> None:
    method, _ = _impq(limits={"weights": 2.0})
    method.reduction.begin()
    method.state.phase = "weights"
    gains = noise_gains(method.network, method.batches(), seed=method.state.iteration)
    sensitivity = {
        (quantizer.name, index): float(step) ** 2 * float(gain) / quantizer.elements
        for quantizer in method.reduction.weights
        for index, (step, gain) in enumerate(zip(quantizer.step, gains.weights[quantizer.name], strict=True))
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

    listener = Listener()
    method, _ = _impq(held_out=held_out, limits={"weights": 3.0}, reporter=listener)
    history = method.run()
    weights = [row for row in history if row["phase"] == "weights"]
    assert [row["accepted"] for row in weights] == [False, False]
    assert weights[1]["reduced"] == pytest.approx(weights[0]["reduced"] / 2, abs=1)
    assert all(set(q.bits.tolist()) == {4} for q in weight_quantizers(method.network))
    (said,) = [event for event in listener.events if event["event"] == "budgets"]
    assert said == {
        "event": "budgets",
        "used": {"weights": 4.0},
        "limits": {"weights": 3.0},
        "binding": "max_drop",
    }


def test_a_group_that_was_refused_alone_is_not_tried_again() -> None:
    tried: list[dict[str, set[int]]] = []

    def held_out(network: fx.GraphModule) -> float:
        tried.append({q.name: set(q.bits.tolist()) for q in weight_quantizers(network)})
        return 90.0 if tried[-1] == tried[0] else 80.0

    method, _ = _impq(
        held_out=held_out, limits={"weights": 3.0}, granularity="layer", step=Step(groups=1), epochs=0
    )
    method.run()
    _, first, second = tried
    assert first != second
    network, _ = _impq(held_out=held_out, limits={"weights": 3.0}, granularity="network", epochs=0)
    tried.clear()
    network.run()
    assert len(tried) == 2  # the start, and the one step that there is
    assert network.state.held_back


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


@pytest.mark.parametrize("granularity", ["layer", "network"])
def test_a_group_loses_bits_as_a_whole(granularity: str) -> None:
    method, _ = _impq(granularity=granularity, limits={"weights": 3.4})
    method.run()
    widths = [set(q.bits.tolist()) for q in weight_quantizers(method.network)]
    assert all(len(found) == 1 for found in widths)
    assert (len(set.union(*widths)) == 1) == (granularity == "network")
    assert method._bits()["weights_eff"] <= 3.4


def test_activations_may_come_first() -> None:
    method, _ = _impq(first="activations", limits={"weights": 3.5, "activations": 7.0})
    phases = [row["phase"] for row in method.run()]
    assert phases == sorted(phases, key=["start", "activations", "weights"].index)
    assert {"activations", "weights"} <= set(phases)


def test_budgets_of_cost_are_met_by_no_more_than_a_group() -> None:
    listener = Listener()
    start = _impq()[0].settings.budgets.prices({"w0": (4,), "w1": (4,), "w2": (4,), "w3": (4,)})
    size = 0.8 * start["size"]
    method, _ = _impq(limits={"size": size}, reporter=listener)
    method.run()
    (said,) = [event for event in listener.events if event["event"] == "budgets"]
    assert said["binding"] == "size"
    largest = max(q.elements for q in weight_quantizers(method.network)) / 8
    # Each of the four tensors owes whole bytes.
    assert size - largest - 4 <= said["used"]["size"] <= size
    assert all(int(q.bits) == 8 for q in activation_quantizers(method.network))  # nothing asked for that


def test_what_one_phase_cannot_do_the_other_does() -> None:
    """The input of the first layer, most of the operations, keeps its bits."""
    listener = Listener()
    method, _ = _impq(epochs=0, limits={"bitops": 70_000}, reporter=listener, step=Step(groups=99))
    history = method.run()
    assert method.settings.budgets.used(method.network)["bitops"] <= 70_000
    phases = [event["phase"] for event in listener.events if event["event"] == "phase_end"]
    assert phases == ["weights", "activations", "weights"]
    assert list(dict.fromkeys(row["phase"] for row in history)) == ["start", "weights", "activations"]


def test_both_phases_lower_the_operations_on_bits() -> None:
    listener = Listener()
    start = _impq(limits={"bitops": 1.0})[0].settings.budgets
    goal = 0.75 * start.used(_impq()[0].network)["bitops"]
    method, _ = _impq(limits={"bitops": goal}, reporter=listener)
    method.run()
    assert method.settings.budgets.used(method.network)["bitops"] <= goal
    assert [event["phase"] for event in listener.events if event["event"] == "phase_end"] == [
        "weights",
        "activations",
    ]
    bits = method._bits()
    assert bits["weights_eff"] < 4
    assert bits["activations_eff"] < 8


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (
            Step(sensitivity=1e-30),
            "weights at 4.000 bits, the target is 3: no group has a sensitivity of 1e-30 or less; the ",
        ),
        (Step(mismatch=1e-30), "any group would add more than 1e-30 to the bound on the mismatch"),
    ],
    ids=["sensitivity", "mismatch"],
)
def test_a_phase_ends_where_no_group_may_lose_a_bit(step: Step, reason: str) -> None:
    said = io.StringIO()
    method, _ = _impq(step=step, limits={"weights": 3.0}, reporter=Reporter(stream=said))
    history = method.run()
    assert [row["phase"] for row in history] == ["start"]
    assert reason in said.getvalue()


@pytest.mark.parametrize("clip", ["max", "paper4rms"])
def test_weights_are_clipped_as_asked_for(clip: str) -> None:
    plain, other = (_impq(epochs=0, limits={"weights": 4.0}, clip=name)[0] for name in ("mse", clip))
    for method in (plain, other):
        method.run()
    for quantizer in plain_weights(other.network):
        weight = dict(other.network.named_parameters())[quantizer.name]
        expected = clipped_scale(weight, quantizer.bits, Grid.ODD, clip)
        torch.testing.assert_close(quantizer.scale, expected)
    pairs = zip(plain_weights(plain.network), plain_weights(other.network), strict=True)
    assert any(bool((a.scale / b.scale - 1).abs().max() > 0.01) for a, b in pairs)


def test_clips_of_activations_are_six_sigma_where_asked_for() -> None:
    method, _ = _impq(epochs=0, limits={"weights": 4.0}, activation_clip="6sigma")
    method.run()
    clips = six_sigma_clips(method.network, method.batches(), plain_activations(method.network))
    assert clips
    for quantizer in plain_activations(method.network):
        if quantizer.name in clips:
            assert int(quantizer.zero_point) == 0
            # Clips were set one after the other, and each moves what comes behind by a rounding error.
            assert float(quantizer.scale.detach()) == pytest.approx(clips[quantizer.name] / 2**8, rel=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"sensitivity": "paper"},
        {"sensitivity": "repo", "granularity": "layer"},
        {"rank": "macs", "granularity": "layer"},
        {"rank": "group"},
        {"step": Step(mismatch=0.3)},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_other_rankings_and_steps_reach_the_target_too(options: dict[str, Any]) -> None:
    costs = ()
    if options.get("rank") == "macs":
        model = residual_cnn(np.random.default_rng(0))
        plan = place(model, weight_bits=4, activation_bits=8, grid=Grid.ODD)
        names = [entry.name for entry in plan.weights]
        inputs = {"x": np.zeros((1, 2, 8, 8), np.float32)}
        costs = layer_costs(model, plan, "bitops", learned=names, inputs=inputs)
    method, _ = _impq(limits={"weights": 3.2}, costs=costs, **options)
    plain, _ = _impq(limits={"weights": 3.2})
    for search in (method, plain):
        search.run()
        assert search._bits()["weights_eff"] <= 3.2
    assert read_plan(method.network).to_json() != read_plan(plain.network).to_json()


@pytest.mark.parametrize("first", ["weights", "activations"])
def test_outputs_without_classes_are_told_of_once(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fisher(*given: Any, **more: Any) -> NoiseGains:
        return dataclasses.replace(noise_gains(*given, **more), from_classes=False)

    monkeypatch.setattr("mpqtool.methods.reduction.noise_gains", fisher)
    said = io.StringIO()
    other = {"weights": {"activations": 6.0}, "activations": {"weights": 3.0}}[first]
    method, _ = _impq(
        first=first, limits=other, reporter=Reporter(stream=said)
    )  # the first has nothing to do
    method.run()
    assert said.getvalue().count("as the network has no class logits") == 1


def test_every_iteration_that_is_accepted_is_kept() -> None:
    seen: list[str] = []

    def held_out(network: fx.GraphModule) -> float:
        seen.append(read_plan(network).to_json())
        return 80.0 if len(seen) == 3 else 90.0

    kept: dict[int, Checkpoint] = {}
    method, _ = _impq(held_out=held_out, kept=kept, epochs=0, limits={"weights": 3.0})
    history = method.run()
    assert [row["iteration"] for row in history if not row["accepted"]] == [2]
    assert list(kept) == [row["iteration"] for row in history if row["accepted"]]
    for iteration, checkpoint in kept.items():
        assert checkpoint.state == {"plan": seen[iteration], "history": history[: iteration + 1]}
        method.network.load_state_dict(checkpoint.tensors)
        assert read_plan(method.network).to_json() == seen[iteration]


def test_kernels_that_are_pruned_stay_so() -> None:
    kept: dict[int, Checkpoint] = {}
    method, _ = _impq(prune=True, kept=kept, limits={"size": 20.0}, step=Step(groups=8), max_drop=100.0)
    method.run()
    gone: set[tuple[str, int]] = set()
    for checkpoint in kept.values():
        method.network.load_state_dict(checkpoint.tensors)
        widths = [
            (q.name, index, bits)
            for q in method.reduction.weights
            for index, bits in enumerate(q.bits.tolist())
        ]
        now = {(name, index) for name, index, bits in widths if bits == 0}
        assert gone <= now
        gone = now
    assert gone


def test_sizes_of_values_are_known_where_nothing_is_calibrated() -> None:
    method, _ = _impq(limits={"activations": 6.0})
    method.reduction.begin()
    for quantizer in method.reduction.activations:
        quantizer.elements = 0  # as with a plan that has all scales
    method.reduction.begin()
    assert method.settings.budgets.used(method.network)["activations"] == 8


def test_it_is_said_where_margins_between_classes_are_not_what_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_classes(*args: Any, **kwargs: Any) -> NoiseGains:
        return dataclasses.replace(noise_gains(*args, **kwargs), from_classes=False)

    for patched, times in ((noise_gains, 0), (without_classes, 1)):
        monkeypatch.setattr("mpqtool.methods.reduction.noise_gains", patched)
        said = io.StringIO()
        reporter = Reporter(stream=said)
        _impq(epochs=0, limits={"weights": 3.0}, reporter=reporter)[0].run()
        assert said.getvalue().count("has no class logits") == times
