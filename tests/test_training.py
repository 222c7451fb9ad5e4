from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from mpqtool.checkpoint import Checkpoint
from mpqtool.data import Split
from mpqtool.errors import TrainingError
from mpqtool.reporter import Reporter
from mpqtool.training import Recipe, Trainer


class _Listener(Reporter):
    """A silent reporter that keeps its events."""

    def __init__(self) -> None:
        super().__init__(silent=True)
        self.events: list[dict[str, object]] = []

    def event(self, kind: str, **fields: object) -> None:
        self.events.append({"event": kind, **fields})


class _Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(3, 5, generator=generator))
        self.b = nn.Parameter(torch.zeros(3))
        self.seen: set[torch.dtype] = set()  # of what the layer computed

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = nn.functional.linear(x, self.w, self.b)
        self.seen.add(y.dtype)
        return (y,)


def _split(rng: np.random.Generator, *, samples: int = 90, labels: bool = True) -> Split:
    x = rng.normal(size=(samples, 5)).astype(np.float32)
    return Split({"x": x}, x[:, :3].argmax(1) if labels else None)


def _trainer(split: Split, **options: object) -> Trainer:
    settings = {"teacher": None, "batch_size": 16, "epoch_samples": None, "seed": 0}
    return Trainer(split, **{"reporter": Reporter(silent=True)} | settings | options)


def _hits(net: _Net, split: Split) -> float:
    return float((net(torch.from_numpy(split.inputs["x"]))[0].argmax(1).numpy() == split.labels).mean())


def test_learns_from_labels(rng: np.random.Generator) -> None:
    split, net = _split(rng), _Net()
    before = _hits(net, split)
    _trainer(split).fit(net, epochs=30, lr=0.1, label="")
    assert before < 0.7
    assert _hits(net, split) > 0.9


def test_learns_from_a_teacher_without_labels(rng: np.random.Generator) -> None:
    split, net, teacher = _split(rng, labels=False), _Net(), _Net(seed=1)
    _trainer(split, teacher=teacher).fit(net, epochs=60, lr=0.1, label="")
    x = torch.from_numpy(split.inputs["x"])
    agreement = (net(x)[0].argmax(1) == teacher(x)[0].argmax(1)).float().mean()
    assert float(agreement) > 0.95


def test_refuses_to_learn_from_nothing(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="a teacher is needed"):
        _trainer(_split(rng, labels=False))


def test_the_same_seed_gives_the_same_weights(rng: np.random.Generator) -> None:
    split, nets = _split(rng), [_Net() for _ in range(3)]
    for net, seed in zip(nets, (4, 4, 5), strict=True):
        _trainer(split, seed=seed).fit(net, epochs=2, lr=0.1, label="")
    assert torch.equal(nets[0].w, nets[1].w)
    assert not torch.equal(nets[0].w, nets[2].w)


@pytest.mark.parametrize(
    ("epochs", "recipe"),
    [
        pytest.param(3, Recipe(), id="sgd-whole-epochs"),
        pytest.param(2.6, Recipe(accumulate=2), id="sgd-accumulate"),
        pytest.param(2.6, Recipe(optimizer="adamw"), id="adamw"),
        pytest.param(
            2.6, Recipe(optimizer="adamw", accumulate=2, mixed_precision="bf16"), id="adamw-accumulate-bf16"
        ),
        pytest.param(2.6, Recipe(mixed_precision="fp16"), id="sgd-fp16"),
    ],
)
def test_resumes_to_the_same_weights(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, recipe: Recipe, epochs: float
) -> None:
    # A user is told that they are nothing for a CPU; autocast and gradient scaler work there all the same.
    monkeypatch.setattr("mpqtool.training.check_precision", lambda *_: None)
    split, straight, saved = _split(rng), _Net(), []
    trainer = _trainer(split, recipe=recipe)

    def save(epoch: int, slots: dict[str, Tensor]) -> None:
        tensors = {name: tensor.clone() for name, tensor in {**straight.state_dict(), **slots}.items()}
        saved.append(Checkpoint(tensors, {"epoch": epoch, "epochs_begun": trainer.epochs_begun}))

    trainer.fit(straight, epochs=epochs, lr=0.1, label="", on_epoch=save)
    assert len(saved) == 3
    for checkpoint in saved:
        resumed = _Net(seed=9)
        resumed.load_state_dict({name: checkpoint.tensors[name] for name in resumed.state_dict()})
        _trainer(split, recipe=recipe).fit(resumed, epochs=epochs, lr=0.1, label="", resume=checkpoint)
        assert torch.equal(straight.w, resumed.w)
        assert torch.equal(straight.b, resumed.b)
    assert not torch.equal(saved[0].tensors["w"], straight.w)


@pytest.mark.parametrize(
    ("epochs", "accumulate", "steps"),
    [
        pytest.param(1.6, 1, [5, 3], id="and-60-%-of-the-second"),
        pytest.param(2, 2, [3, 3], id="left-over-batches-make-a-step"),
        pytest.param(1.7, 2, [3, 2], id="both"),
        pytest.param(0.01, 1, [1], id="at-least-one"),
        pytest.param(0, 1, [], id="none"),
    ],
)
def test_counts_steps_of_the_optimizer(
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    epochs: float,
    accumulate: int,
    steps: list[int],
) -> None:
    taken = [0]
    monkeypatch.setattr("mpqtool.training.restrain_scales", lambda _: taken.append(taken.pop() + 1))
    reporter = _Listener()
    trainer = _trainer(_split(rng), recipe=Recipe(accumulate=accumulate), reporter=reporter)
    trainer.fit(_Net(), epochs=epochs, lr=0.1, label="", on_epoch=lambda *_: taken.append(0))
    assert taken == [*steps, 0]
    assert trainer.epochs_begun == len(steps)
    assert [event["epoch"] for event in reporter.events] == [*range(1, len(steps) + 1)]


def test_stops_early_when_told_to(rng: np.random.Generator) -> None:
    reporter = _Listener()
    trainer = _trainer(_split(rng), reporter=reporter)
    trainer.fit(_Net(), epochs=5, lr=0.1, label="x", on_epoch=lambda epoch, _: epoch == 2)
    assert trainer.epochs_begun == 2
    assert [event["event"] for event in reporter.events] == ["epoch", "epoch", "early_stop"]
    assert reporter.events[-1] == {"event": "early_stop", "label": "x", "epoch": 2, "epochs": 5}


def test_the_end_of_the_schedule_moves_nothing(rng: np.random.Generator) -> None:
    split, net = _split(rng), _Net()
    _trainer(split).fit(net, epochs=1, lr=0.1, label="", span=(1.0, 1.0))
    assert torch.equal(net.w, _Net().w)


def test_every_step_has_its_own_learning_rate(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpqtool.training.learning_rates", lambda *_: [0.1] * 5 + [0.0] * 5)
    net, weights = _Net(), [_Net().w.detach()]
    _trainer(_split(rng)).fit(
        net, epochs=2, lr=0.1, label="", on_epoch=lambda *_: weights.append(net.w.detach().clone())
    )
    start, middle, end = weights
    assert not torch.equal(start, middle)
    assert torch.equal(middle, end)


@pytest.mark.parametrize("accumulate", [2, 5], ids=["all", "left-over"])
def test_accumulated_batches_have_the_gradient_of_a_large_one(
    rng: np.random.Generator, accumulate: int
) -> None:
    split, whole, parts = _split(rng, samples=64), _Net(), _Net()
    _trainer(split, batch_size=64).fit(whole, epochs=3, lr=0.1, label="")
    _trainer(split, batch_size=32, recipe=Recipe(accumulate=accumulate)).fit(
        parts, epochs=3, lr=0.1, label=""
    )
    # Sums of 64 float32 numbers in another order.
    torch.testing.assert_close(parts.w, whole.w, rtol=0, atol=1e-6)
    assert not torch.allclose(whole.w, _Net().w, rtol=0, atol=1e-2)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_bfloat16_trains_float32_weights(rng: np.random.Generator, optimizer: str) -> None:
    split, net, teacher, reporter = _split(rng), _Net(), _Net(seed=1), _Listener()
    recipe = Recipe(optimizer=optimizer, mixed_precision="bf16")
    trainer = _trainer(split, teacher=teacher, recipe=recipe, reporter=reporter)
    trainer.fit(net, epochs=10, lr=0.1, label="")
    assert net.w.dtype == torch.float32
    assert net.seen == teacher.seen == {torch.bfloat16}
    losses = [event["loss"] for event in reporter.events if event["event"] == "epoch"]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0] / 2
    (logits,) = trainer._outputs(net, (torch.zeros(2, 5),))
    assert logits.dtype == torch.float32  # what the loss is computed in


def test_predicts_in_float32_whatever_it_trains_in(rng: np.random.Generator) -> None:
    split, net = _split(rng), _Net()
    trainer = _trainer(split, recipe=Recipe(mixed_precision="bf16"))
    trainer.fit(net, epochs=1, lr=0.1, label="")
    net.seen.clear()
    (outputs,) = trainer.predict(net, split)
    assert outputs.dtype == np.float32
    assert net.seen == {torch.float32}


def test_float32_is_float32_after_another_precision_in_this_process(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, first, narrow = _split(rng), _Net(), _Net()
    _trainer(split).fit(first, epochs=2, lr=0.1, label="")
    _trainer(split, recipe=Recipe(mixed_precision="bf16")).fit(narrow, epochs=1, lr=0.1, label="")
    later = _Net()  # Accelerate prepares a module only once
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})  # as in a process where someone else began
    Accelerator(cpu=True, mixed_precision="bf16")
    _trainer(split).fit(later, epochs=2, lr=0.1, label="")
    assert later.seen == {torch.float32}
    assert torch.equal(first.w, later.w)


def test_batch_normalization_behind_a_gemm_needs_two_samples(rng: np.random.Generator) -> None:
    class Normalized(_Net):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            (y,) = super().forward(x)
            return (nn.functional.batch_norm(y, None, None, training=True),)

    with pytest.raises(TrainingError, match="has no variance for the BatchNormalization") as caught:
        _trainer(_split(rng), batch_size=1).fit(Normalized(), epochs=1, lr=0.1, label="")
    assert "\n" not in str(caught.value)
    _trainer(_split(rng), batch_size=2).fit(Normalized(), epochs=1, lr=0.1, label="")


def test_epoch_samples_bounds_an_epoch(rng: np.random.Generator) -> None:
    trainer = _trainer(_split(rng), epoch_samples=40)
    assert trainer.steps_per_epoch == 2
    assert sum(len(batch.inputs[0]) for batch in trainer.batches(trainer.batches_per_epoch)) == 32


def test_a_split_smaller_than_a_batch_is_one_step(rng: np.random.Generator) -> None:
    trainer = _trainer(_split(rng), batch_size=1000)
    assert trainer.steps_per_epoch == 1
    assert sum(len(batch.inputs[0]) for batch in trainer.batches(trainer.batches_per_epoch)) == 90


def test_every_epoch_has_its_own_order(rng: np.random.Generator) -> None:
    trainer = _trainer(_split(rng))
    count = trainer.batches_per_epoch
    orders = [torch.cat([batch.inputs[0] for batch in trainer.batches(count)]) for _ in range(2)]
    assert not torch.equal(*orders)
