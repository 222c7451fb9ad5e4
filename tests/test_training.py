from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mpqtool.checkpoint import Checkpoint
from mpqtool.data import Split
from mpqtool.reporter import Reporter
from mpqtool.training import Trainer


class _Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(3, 5, generator=generator))
        self.b = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (nn.functional.linear(x, self.w, self.b),)


def _split(rng: np.random.Generator, *, labels: bool = True) -> Split:
    x = rng.normal(size=(90, 5)).astype(np.float32)
    return Split({"x": x}, x[:, :3].argmax(1) if labels else None)


def _trainer(split: Split, **options: object) -> Trainer:
    settings = {"teacher": None, "batch_size": 16, "epoch_samples": None, "seed": 0} | options
    return Trainer(split, reporter=Reporter(silent=True), **settings)


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


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_resumes_to_the_same_weights(rng: np.random.Generator, stop_after: int) -> None:
    split, straight = _split(rng), _Net()
    _trainer(split).fit(straight, epochs=3, lr=0.1, label="")

    class _StopError(Exception):
        pass

    saved: list[Checkpoint] = []
    stopped, trainer = _Net(), _trainer(split)

    def save(epoch: int, momenta: dict[str, Tensor]) -> None:
        tensors = {name: tensor.clone() for name, tensor in {**stopped.state_dict(), **momenta}.items()}
        saved.append(Checkpoint(tensors, {"epoch": epoch, "epochs_begun": trainer.epochs_begun}))
        if epoch == stop_after:
            raise _StopError

    with pytest.raises(_StopError):
        trainer.fit(stopped, epochs=3, lr=0.1, label="", on_epoch=save)

    resumed = _Net(seed=9)
    resumed.load_state_dict({name: saved[-1].tensors[name] for name in resumed.state_dict()})
    _trainer(split).fit(resumed, epochs=3, lr=0.1, label="", resume=saved[-1])
    assert torch.equal(straight.w, resumed.w)
    assert torch.equal(straight.b, resumed.b)


def test_epoch_samples_bounds_an_epoch(rng: np.random.Generator) -> None:
    trainer = _trainer(_split(rng), epoch_samples=40)
    assert trainer.steps_per_epoch == 2
    assert sum(len(inputs[0]) for inputs, _ in trainer._batches()) == 32


def test_a_split_smaller_than_a_batch_is_one_step(rng: np.random.Generator) -> None:
    trainer = _trainer(_split(rng), batch_size=1000)
    assert trainer.steps_per_epoch == 1
    assert sum(len(inputs[0]) for inputs, _ in trainer._batches()) == 90


def test_every_epoch_has_its_own_order(rng: np.random.Generator) -> None:
    trainer = _trainer(_split(rng))
    orders = [torch.cat([inputs[0] for inputs, _ in trainer._batches()]) for _ in range(2)]
    assert not torch.equal(*orders)
