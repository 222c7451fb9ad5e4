"""LSQ and LSQ+ on a network small enough to see what they do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from swish_network import swish_network, swish_split
from torch import Tensor, fx

from mpqtool.checkpoint import Checkpoint
from mpqtool.errors import TrainingError
from mpqtool.methods.batch_norm import reestimate
from mpqtool.methods.lsq import Lsq, LsqSettings
from mpqtool.passes import pipelines
from mpqtool.passes.place import free_values, place
from mpqtool.passes.plan import Grid
from mpqtool.quantizers import OffsetQuantizer
from mpqtool.quantizers.attach import activation_quantizers, read_plan, weight_quantizers
from mpqtool.reporter import Reporter
from mpqtool.run_lsq import lsq_network
from mpqtool.training import Trainer


class _Run:
    """One training, and what it saved."""

    def __init__(
        self, *, config: str = "auto", held_out: Any = None, grid: Grid = Grid.FULL, **settings: Any
    ):
        rng = np.random.default_rng(0)
        model = pipelines.positive_batch_norm(pipelines.normalize(swish_network(rng)))
        folded = pipelines.fold_batch_norm(model)
        plan = place(folded, weight_bits=4, activation_bits=4, grid=grid)
        free = free_values(folded)
        split = swish_split(rng, 64)
        self.trainer = Trainer(
            split, teacher=None, batch_size=16, epoch_samples=None, seed=0, reporter=Reporter(silent=True)
        )
        self.saved: list[Checkpoint] = []
        self.network, configured = lsq_network(model, folded, plan, config=config, offsets=True)
        self.batches: Callable[[], Iterator[tuple[Tensor, ...]]] = lambda: self.trainer.batches_of(split)
        self.method = Lsq(
            self.network, self.trainer, held_out=held_out or self.minus_loss, batches=self.batches,
            settings=LsqSettings(
                **{"init": "minmax", "epochs": 3, "lr": 0.02} | settings,
                configured=configured, free=free,
            ),
            reporter=Reporter(silent=True), save=self.save,
        )  # fmt: skip
        self.split = split

    def save(
        self, checkpoint: Checkpoint
    ) -> None:  # as a file would hold it: what comes later does not change it
        tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
        self.saved.append(Checkpoint(tensors, copy.deepcopy(checkpoint.state)))

    def minus_loss(self, network: fx.GraphModule) -> float:
        """Higher is better."""
        (logits,) = self.trainer.predict(network, self.split)
        return -float(
            torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(self.split.labels))
        )

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.network.state_dict().items()}


def _scripted(*metrics: float) -> Callable[[fx.GraphModule], float]:
    left = iter(metrics)
    return lambda network: next(left)


@pytest.mark.parametrize("config", ["1", "2", "3", "4"])
def test_the_loss_falls_and_every_number_is_learned(config: str) -> None:
    run = _Run(config=config)
    run.method.initialize()
    before = run.state()

    history = run.method.run()

    after = run.state()
    assert run.method.state.best > history[0]["held_out"] + 0.05
    for quantizer in [*weight_quantizers(run.network), *activation_quantizers(run.network)]:
        assert all(p.isfinite().all() for p in quantizer.parameters())
    still = [
        n for n, p in run.network.named_parameters() if p.requires_grad and torch.equal(after[n], before[n])
    ]
    assert still == []
    betas = [name for name in after if name.endswith(".beta")]
    assert len(betas) == (4 if config in "34" else 0)
    assert read_plan(run.network).is_complete


def test_history_has_a_row_per_epoch() -> None:
    history = _Run(epochs=2).method.run()
    assert [row["epoch"] for row in history] == [0, 1, 2]
    assert set(history[0]) == {"epoch", "held_out", "weights_eff", "activations_eff"}
    assert {row["weights_eff"] for row in history} == {4.0}
    assert all(4.0 < row["activations_eff"] < 8.0 for row in history)  # the input has 8


@pytest.mark.parametrize("lost", [2.5, 3.5])
def test_much_that_is_lost_is_told(lost: float, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="mpqtool"):
        _Run(held_out=_scripted(90.0, 90.0), float_metric=90 + lost, epochs=1).method.run()
    told = [record.message for record in caplog.records if "below the float network" in record.message]
    assert bool(told) == (lost > 3)
    assert all("3.50 points" in text and "wider --bits" in text for text in told)


def test_the_best_epoch_is_restored() -> None:
    run = _Run(held_out=_scripted(1.0, 5.0, 3.0, 4.0))
    run.method.run()
    best = {
        name[len("network/") :]: t for name, t in run.saved[0].tensors.items() if name.startswith("network/")
    }
    last = {
        name[len("network/") :]: t for name, t in run.saved[2].tensors.items() if name.startswith("network/")
    }
    assert run.method.state.best_epoch == 1
    found = run.state()
    assert found.keys() == best.keys()
    assert all(torch.equal(tensor, best[name]) for name, tensor in found.items())
    assert any(not torch.equal(tensor, last[name]) for name, tensor in found.items())


def test_of_two_that_are_as_good_the_later_is_restored() -> None:
    run = _Run(held_out=_scripted(1.0, 5.0, 5.0, 4.0))
    run.method.run()
    wanted = run.saved[1].tensors
    assert run.method.state.best_epoch == 1  # patience counts from where it got better
    assert all(torch.equal(tensor, wanted[f"network/{name}"]) for name, tensor in run.state().items())


def test_the_start_is_restored_if_training_only_harms() -> None:
    run = _Run(held_out=_scripted(9.0, 5.0, 3.0, 4.0))
    history = run.method.run()
    assert run.method.state.best_epoch == 0
    assert [row["held_out"] for row in history] == [9.0, 5.0, 3.0, 4.0]
    fresh = _Run(epochs=0)
    fresh.method.run()
    assert all(torch.equal(tensor, fresh.state()[name]) for name, tensor in run.state().items())


def test_it_goes_through_the_first_part_of_a_longer_schedule() -> None:
    whole, half = _Run(epochs=4), _Run(epochs=2, span=(0.0, 0.5))
    for run in (whole, half):
        run.method.run()
    for left, right in zip(whole.saved, half.saved, strict=False):
        names = [name for name in left.tensors if name.startswith("network/")]
        assert all(torch.equal(left.tensors[name], right.tensors[name]) for name in names)
    assert len(half.saved) == 2


def test_statistics_are_those_of_the_quantized_network() -> None:
    run = _Run(epochs=1, held_out=_scripted(1.0, 2.0))
    run.method.run()
    learned = run.state()
    reestimate(run.network, run.batches())
    assert all(torch.equal(tensor, learned[name]) for name, tensor in run.state().items())


def test_patience_stops() -> None:
    run = _Run(epochs=8, patience=2, held_out=_scripted(1.0, 5.0, 3.0, 5.0, 6.0))
    history = run.method.run()
    assert [row["epoch"] for row in history] == [0, 1, 2, 3]  # 5.0 once more is not better
    assert run.method.state.best_epoch == 1


def test_no_epochs_give_the_initial_numbers() -> None:
    run = _Run(epochs=0)
    history = run.method.run()
    assert [row["epoch"] for row in history] == [0]
    assert read_plan(run.network).is_complete
    assert run.saved == []


@pytest.mark.parametrize("epochs", [3, 2.4])
def test_a_run_that_goes_on_ends_in_the_same_numbers(epochs: float) -> None:
    straight = _Run(epochs=epochs, span=(0.0, 0.8))
    expected = straight.method.run()
    assert len(straight.saved) == 3
    for checkpoint in straight.saved:
        again = _Run(epochs=epochs, span=(0.0, 0.8))
        again.method.resume(checkpoint)
        assert again.method.run() == expected
        assert all(torch.equal(tensor, straight.state()[name]) for name, tensor in again.state().items())


def test_a_run_that_ran_out_of_patience_does_not_go_on() -> None:
    first = _Run(epochs=6, patience=1, held_out=_scripted(5.0, 4.0))
    first.method.run()
    again = _Run(epochs=6, patience=1, held_out=_scripted())  # nothing may be measured any more
    again.method.resume(first.saved[-1])

    history = again.method.run()

    assert [row["epoch"] for row in history] == [0, 1]
    assert all(torch.equal(tensor, first.state()[name]) for name, tensor in again.state().items())


def test_outputs_that_are_never_numbers_are_told() -> None:
    run = _Run(held_out=lambda network: float("nan"), epochs=1)
    with pytest.raises(TrainingError, match=r"not numbers after every epoch\. Give a smaller --lr"):
        run.method.run()


@pytest.mark.parametrize("init", ["lsq+", "mse", "lsq", "minmax"])
def test_every_initialization_is_one_to_learn_from(init: str) -> None:
    run = _Run(init=init, epochs=1)
    run.method.run()
    plan = read_plan(run.network)
    assert plan.is_complete
    for quantizer in activation_quantizers(run.network):
        if isinstance(quantizer, OffsetQuantizer):
            assert (float(quantizer.beta.detach()) != 0) or init == "lsq"


def test_odd_grids_learn_too() -> None:
    run = _Run(grid=Grid.ODD)
    history = run.method.run()
    assert run.method.state.best > history[0]["held_out"]
