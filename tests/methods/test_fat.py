"""FAT on a network small enough to see what it does."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from swish_network import swish_network, swish_split
from torch import Tensor, fx, nn

from mpqtool.checkpoint import Checkpoint
from mpqtool.errors import TrainingError
from mpqtool.importer import import_graph
from mpqtool.methods import fat
from mpqtool.methods.distance import distance
from mpqtool.methods.fat import Fat, FatSettings, learning_rate
from mpqtool.passes import pipelines
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid, Plan
from mpqtool.quantizers.attach import attach, plain_activations, plain_weights, read_plan
from mpqtool.quantizers.calibrate import calibrate
from mpqtool.quantizers.threshold import WIDTH, attach_thresholds
from mpqtool.reporter import Reporter
from mpqtool.training import Trainer


class _Run:
    """One training, and what it saved."""

    def __init__(self, *, held_out: Any = None, epochs: int = 2, lr: float = 0.01, **settings: Any):
        rng = np.random.default_rng(0)
        model = pipelines.normalize(swish_network(rng), fold_batch_norm=True)
        self.split = swish_split(rng, 64)
        self.split = type(self.split)(self.split.inputs)
        self.trainer = Trainer(
            self.split, teacher=import_graph(model), batch_size=16, epoch_samples=None, seed=0,
            reporter=Reporter(silent=True),
        )  # fmt: skip
        self.batches: Callable[[], Iterator[tuple[Tensor, ...]]] = lambda: self.trainer.batches_of(self.split)
        start = attach(import_graph(model), place(model, weight_bits=3, activation_bits=3, grid=Grid.FULL))
        parameters = dict(start.named_parameters())
        for quantizer in plain_weights(start):
            quantizer.fit(parameters[quantizer.name], "max")
        calibrate(start, self.batches(), plain_activations(start), ranges="minmax")
        self.start = read_plan(start)
        self.network = attach_thresholds(import_graph(model), self.start)
        self.saved: list[Checkpoint] = []
        self.method = Fat(
            self.network, self.trainer, held_out=held_out or self.minus_distance, batches=self.batches,
            settings=FatSettings(epochs=epochs, lr=lr, **settings),
            reporter=Reporter(silent=True), save=self.save,
        )  # fmt: skip

    def save(self, checkpoint: Checkpoint) -> None:
        tensors = {name: tensor.detach().clone() for name, tensor in checkpoint.tensors.items()}
        self.saved.append(Checkpoint(tensors, copy.deepcopy(checkpoint.state)))

    def minus_distance(self, plan: Plan) -> float:
        """Higher is better."""
        assert plan == self.method.plan
        assert self.trainer.teacher is not None
        outputs, taught = (
            [torch.tensor(y) for y in self.trainer.predict(module, self.split)]
            for module in (self.network, self.trainer.teacher)
        )
        return -float(distance(outputs, taught, [1.0]))

    def thresholds(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.method.thresholds.items()}


def _scripted(*metrics: float) -> Callable[[fx.GraphModule], float]:
    left = iter(metrics)
    return lambda plan: next(left)


def test_schedule() -> None:
    assert learning_rate(2.0, 0) == 2
    assert learning_rate(1.0, 400) == pytest.approx(math.exp(-0.04) * math.sqrt(0.5))
    assert learning_rate(1.0, 800) == pytest.approx(0, abs=1e-12)
    assert learning_rate(1.0, 1600) == pytest.approx(math.exp(-0.16))


def test_thresholds_alone_are_learned_and_the_distance_falls() -> None:
    run = _Run(epochs=4, lr=0.02)
    before, weights = run.thresholds(), {n: t.clone() for n, t in run.network.state_dict().items()}

    history = run.method.run()

    assert [row["epoch"] for row in history] == list(range(5))
    assert run.method.state.best > 0.8 * history[0]["held_out"]  # a distance, with a minus sign
    assert history[-1]["loss"] < history[1]["loss"]
    assert run.method.state.batches == 4 * 4
    after = run.thresholds()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved >= {name for name in before if name.endswith("width")}
    assert any(name.endswith("shift") for name in moved)  # of those whose low end clips something
    assert {n for n, t in run.network.state_dict().items() if not torch.equal(t, weights[n])} == moved


def test_no_step_takes_a_threshold_beyond_its_limits() -> None:
    run = _Run(epochs=1, lr=0.4, held_out=_scripted(1.0, 2.0))
    run.method.run()
    widths = torch.cat([t.flatten() for name, t in run.thresholds().items() if name.endswith("width")])
    assert float(widths.min()) == pytest.approx(WIDTH[0])
    assert float(widths.max()) <= torch.tensor(WIDTH[1])


def test_the_start_is_kept_where_nothing_is_better() -> None:
    run = _Run(held_out=_scripted(5.0, 4.0, 4.5), epochs=2)
    run.method.run()
    assert run.method.state.kept_epoch == 0
    assert run.method.plan == run.start


def test_of_two_as_good_the_later_is_kept() -> None:
    run = _Run(held_out=_scripted(4.0, 5.0, 5.0, 3.0), epochs=3)
    run.method.run()
    assert run.method.state.kept_epoch == 2
    assert run.method.plan != run.start


def test_without_epochs_the_start_is_kept() -> None:
    run = _Run(epochs=0)
    assert [row["epoch"] for row in run.method.run()] == [0]
    assert run.method.plan == run.start
    assert run.saved == []


def test_a_resumed_run_ends_in_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fat, "_FORGET", 6)  # in the midst of the second epoch
    whole = _Run()
    history = whole.method.run()
    resumed = _Run()
    resumed.method.resume(whole.saved[0])
    assert resumed.method.run() == history
    assert resumed.method.plan == whole.method.plan
    assert len(resumed.saved) == 1


def test_the_optimizer_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    run = _Run(epochs=2)
    whole = run.method._optimizer
    monkeypatch.setattr(fat, "_FORGET", 3)
    monkeypatch.setattr(run.method, "_optimizer", lambda: (made.append(run.method.state.batches), whole())[1])
    run.method.run()
    assert made == [0, 3, 6]


class _Breaks(nn.Module):
    """A teacher whose answers are not numbers on some batches of one sample's worth."""

    def __init__(self, teacher: nn.Module, broken: set[int]) -> None:
        super().__init__()
        self.teacher, self.broken, self.calls = teacher, broken, 0

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.calls += 1
        (y,) = self.teacher(x)
        return (y * math.nan if self.calls in self.broken else y,)


def test_the_last_good_thresholds_are_restored(caplog: pytest.LogCaptureFixture) -> None:
    """The first call measures sizes; the third and fourth batch of two epochs of four are no numbers."""
    run = _Run(epochs=2, held_out=_scripted(1.0, 2.0, 3.0))
    assert run.trainer.teacher is not None
    run.trainer.teacher = _Breaks(run.trainer.teacher, {4, 5})
    copies: list[dict[str, Tensor]] = []
    copied = run.method._copied
    run.method._copied = lambda: (copies.append(copied()), copies[-1])[1]  # type: ignore[method-assign]
    with caplog.at_level("WARNING", logger="mpqtool"):
        run.method.run()
    assert run.method.state.restored == 2
    assert "the loss of 2 of 8 batches was not a number" in caplog.text
    # Good are the thresholds before the second step, the last one on a number; with them epoch 1 ends.
    good = copies[3]
    assert all(torch.equal(run.saved[0].tensors[f"network/{name}"], t) for name, t in good.items())
    assert all(t.isfinite().all() for t in run.thresholds().values())


@pytest.mark.parametrize("lost", [2.5, 3.5])
def test_much_that_is_lost_is_told(lost: float, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="mpqtool"):
        run = _Run(held_out=_scripted(90.0), float_metric=90 + lost, epochs=0)
        history = run.method.run()
    assert history[0]["float_held_out"] == 90 + lost
    assert ("3.50 points below the float network" in caplog.text) == (lost > 3)


def test_a_network_without_real_outputs_is_refused() -> None:
    run = _Run()
    run.trainer.teacher = nn.Identity()
    run.method.batches = lambda: iter([(torch.zeros(2, 3, dtype=torch.int64),)])
    with pytest.raises(TrainingError, match="no output of real numbers"):
        run.method.run()


def test_outputs_that_are_never_numbers_are_refused() -> None:
    with pytest.raises(TrainingError, match="not numbers after every epoch"):
        _Run(held_out=_scripted(-math.inf), epochs=0).method.run()
