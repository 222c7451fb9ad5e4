"""AdaQAT on a network small enough to see what it does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from adaqat_runs import AdaQatRun
from torch import fx

from mpqtool.passes.plan import Grid
from mpqtool.quantizers import PactQuantizer
from mpqtool.quantizers.attach import activation_quantizers, read_plan
from mpqtool.training import Recipe

SHORT = {"search_epochs": 4, "epochs": 5, "search": {"balance": 1.0}}


def _scripted(*metrics: float) -> Callable[[fx.GraphModule], float]:
    left = iter(metrics)
    return lambda network: next(left)


def test_every_number_is_learned() -> None:
    run = AdaQatRun(**SHORT)
    run.method.initialize()
    before = run.state()
    clips = [q.alpha for q in activation_quantizers(run.network) if isinstance(q, PactQuantizer)]
    assert len(clips) == 4
    assert all(bool(clip > 0) for clip in clips)

    history = run.method.run()

    after = run.state()
    assert run.method.state.best > history[0]["held_out"]
    still = [n for n, p in run.network.named_parameters() if torch.equal(after[n], before[n])]
    assert still == []
    plan = read_plan(run.network)
    assert plan.is_complete
    assert {entry.grid for entry in plan.weights} == {Grid.ODD}


def test_no_epoch_of_the_search_is_kept() -> None:
    run = AdaQatRun(**SHORT, held_out=_scripted(9.0, 8.0, 7.0, 6.0, 2.0, 1.0))
    history = run.method.run()
    assert [row.get("searching", False) for row in history] == [True] * 4 + [False] * 2
    assert run.method.state.kept_epoch == 4
    wanted = run.saved[3].tensors
    assert all(torch.equal(tensor, wanted[f"network/{name}"]) for name, tensor in run.state().items())
    assert run.saved[2].state["epochs"]["best"] == -torch.inf


@pytest.mark.parametrize("granularity", ["network", "kernel"])
def test_few_epochs_find_an_epoch_to_keep(granularity: str) -> None:
    run = AdaQatRun(weights=granularity, activations="layer", search_epochs=0.1, epochs=0.1)
    history = run.method.run()
    assert ["searching" in row for row in history] == [True, False]
    assert run.method.state.kept_epoch == 1


def test_a_run_that_goes_on_ends_in_the_same_numbers() -> None:
    def begun() -> AdaQatRun:
        return AdaQatRun(
            weights="kernel", activations="layer", search_epochs=1.6, epochs=1.8, span=(0.0, 0.8),
            search={"balance": 0.06}, batch_size=4,
        )  # fmt: skip

    straight, again = begun(), begun()
    straight.between_bits()
    expected = straight.method.run()
    stopped = straight.saved[0]
    assert any(width["bracket"] for width in stopped.state["search"]["widths"])
    again.method.resume(stopped)
    assert again.method.run() == expected
    assert all(torch.equal(tensor, straight.state()[name]) for name, tensor in again.state().items())
    assert again.search.state() == straight.search.state()
    said = again.reporter.events
    assert said == straight.reporter.events[-len(said) :]


def test_half_precision_and_accumulated_gradients_measure_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # A user is told that it is nothing for a CPU; autocast and gradient scaler work there all the same.
    monkeypatch.setattr("mpqtool.training.check_precision", lambda *_: None)
    recipe = Recipe(mixed_precision="fp16", accumulate=2)
    run = AdaQatRun(weights="kernel", activations="layer", **SHORT, recipe=recipe)
    assert run.search.settings.steps == 16  # two batches of eight samples make one
    run.between_bits()
    run.method.run()
    widths = [width for checkpoint in run.saved for width in checkpoint.state["search"]["widths"]]
    assert any(width["bracket"] for width in widths)  # 0 until a loss that is a number was measured
    assert all(variable.width.is_settled for variable in run.search.variables)
    assert read_plan(run.network).is_complete
