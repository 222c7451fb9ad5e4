"""The one fine-tuning loop, for every method, on any number of devices (Hugging Face Accelerate)."""

from __future__ import annotations

__all__ = ["Trainer"]

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from .checkpoint import Checkpoint
from .data import Split
from .errors import TrainingError
from .processes import make_accelerator
from .quantizers.attach import activation_quantizers
from .reporter import Reporter

EVALUATION_BATCH = 256
MOMENTUM, WEIGHT_DECAY, WARMUP = 0.9, 5e-4, 0.1
TEMPERATURE, DISTILL_SHARE = 4.0, 0.9
"""Distillation: ``(1 - a) * CE + a * T**2 * KL`` with a = 0.9, T = 4 (a = 1 without labels)."""

_SMALLEST_SCALE = 1e-8


class _Rows(Dataset[tuple[Tensor, ...]]):
    """Rows of a split, fetched a batch at a time: inputs in graph order, then labels if there are any."""

    def __init__(self, split: Split) -> None:
        arrays = [*split.inputs.values(), *([] if split.labels is None else [split.labels])]
        self.columns = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, ...]:
        return tuple(column[rows] for column in self.columns)


class Trainer:
    """Fine-tunes modules on one split, and measures them on others.

    The order of the samples is a function of the seed and of how many epochs were begun, the
    learning rate one of the step: nothing else is random. So a run that goes on from a checkpoint ends
    in the same numbers as one that never stopped.

    Args:
        split: Training data; labels may be missing if there is a teacher.
        teacher: The float model, for distillation; None: learn from labels alone.
        batch_size: Samples per step, over all processes together.
        epoch_samples: Samples of one epoch; None: all.
        seed: Seed of the sample order.
        reporter: Where progress goes.
    """

    def __init__(
        self,
        split: Split,
        *,
        teacher: nn.Module | None,
        batch_size: int,
        epoch_samples: int | None,
        seed: int,
        reporter: Reporter,
    ) -> None:
        if split.labels is None and teacher is None:
            raise ValueError("without labels a teacher is needed")
        self.accelerator = make_accelerator()
        set_seed(seed)
        self.rows, self.labeled = _Rows(split), split.labels is not None
        self.epoch_samples = min(epoch_samples or len(self.rows), len(self.rows))
        self.batch_size = min(batch_size, self.epoch_samples)
        self.seed, self.reporter = seed, reporter
        self.teacher = None if teacher is None else self.accelerator.prepare(teacher.eval())
        self.epochs_begun = 0

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.epoch_samples // self.batch_size)

    def fit(
        self,
        module: nn.Module,
        *,
        epochs: int,
        lr: float,
        label: str,
        columns: Mapping[str, object] | None = None,
        resume: Checkpoint | None = None,
        on_epoch: Callable[[int, dict[str, Tensor]], None] | None = None,
    ) -> None:
        """Train ``module`` in place: SGD with momentum, linear warm-up, cosine to zero.

        Args:
            module: What to train; its parameters that require a gradient.
            epochs: Passes over the (drawn) training samples.
            lr: Peak learning rate.
            label: What the progress bar and the log call this.
            columns: What the progress bar shows beside it.
            resume: A checkpoint taken by ``on_epoch`` in the midst of this very call.
            on_epoch: Called with the number of epochs done and the optimizer's tensors.

        Raises:
            TrainingError: The loss is no longer a number.
        """
        module.train()
        wrapped, optimizer = self.accelerator.prepare(module, _optimizer(module, lr))
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        first = 0
        if resume is not None:
            first, self.epochs_begun = resume.state["epoch"], resume.state["epochs_begun"]
            _restore(optimizer, names, resume.tensors)
        total = epochs * self.steps_per_epoch
        with self.reporter.progress(total, label) as progress:
            progress.advance(first * self.steps_per_epoch, **(columns or {}))
            for epoch in range(first, epochs):
                losses = []
                for step, (inputs, labels) in enumerate(self._batches(), epoch * self.steps_per_epoch):
                    for group in optimizer.param_groups:
                        group["lr"] = lr * _schedule(step / total)
                    batch_loss = self._loss(wrapped(*inputs), inputs, labels)
                    optimizer.zero_grad()
                    self.accelerator.backward(batch_loss)
                    optimizer.step()
                    _keep_scales_positive(module)
                    losses.append(batch_loss.detach())
                    progress.advance(1, **(columns or {}))
                loss = float(self.accelerator.reduce(torch.stack(losses).mean(), "mean"))
                self.reporter.event("epoch", label=label, epoch=epoch + 1, epochs=epochs, loss=loss)
                if not math.isfinite(loss):
                    raise TrainingError(
                        f"The training diverged: the mean loss of an epoch is {loss} in {label}, at a peak "
                        f"learning rate of {lr:g}. Give a smaller --lr."
                    )
                if on_epoch is not None:
                    on_epoch(epoch + 1, _momenta(optimizer, names))
        self.accelerator.free_memory()  # it keeps every optimizer and loader it ever prepared

    def _batches(self) -> Iterator[tuple[tuple[Tensor, ...], Tensor | None]]:
        """One epoch: each process its share of every batch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epochs_begun)
        self.epochs_begun += 1
        order = torch.randperm(len(self.rows), generator=generator)[: self.epoch_samples].tolist()
        # batch_size is the global one: Accelerate gives every process a slice of each batch.
        self.accelerator.dataloader_config.split_batches = self.accelerator.num_processes > 1
        loader = DataLoader(self.rows, self.batch_size, sampler=order, collate_fn=_as_is, drop_last=True)
        for batch in self.accelerator.prepare(loader):
            yield (batch[:-1], batch[-1]) if self.labeled else (batch, None)

    def _loss(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        logits = outputs[0]
        hard = None if labels is None else F.cross_entropy(logits, labels)
        if self.teacher is None:
            assert hard is not None  # the constructor saw to it
            return hard
        with torch.no_grad():
            taught = self.teacher(*inputs)
        if logits.ndim != 2 or len(outputs) != 1:
            # No class logits: relative squared error, each output in units of its own power.
            errors = [
                F.mse_loss(y, t) / t.square().mean().clamp(min=1e-12)
                for y, t in zip(outputs, taught, strict=True)
            ]
            return torch.stack(errors).sum()
        soft = TEMPERATURE**2 * F.kl_div(
            F.log_softmax(logits / TEMPERATURE, 1),
            F.log_softmax(taught[0] / TEMPERATURE, 1),
            log_target=True,
            reduction="batchmean",
        )
        return soft if hard is None else (1 - DISTILL_SHARE) * hard + DISTILL_SHARE * soft

    @torch.no_grad()
    def predict(self, module: nn.Module, split: Split) -> list[np.ndarray[Any, Any]]:
        """Every output of ``module`` in evaluation mode over a split, in graph order."""
        training = module.training
        module.to(self.accelerator.device).eval()
        outputs = [module(*batch) for batch in self.batches_of(split)]
        module.train(training)
        return [torch.cat(parts).cpu().numpy() for parts in zip(*outputs, strict=True)]

    def batches_of(self, split: Split, *, limit: int | None = None) -> Iterator[tuple[Tensor, ...]]:
        """The first ``limit`` inputs of a split, in order, in batches."""
        columns = [torch.from_numpy(array[:limit]) for array in split.inputs.values()]
        for parts in zip(*(column.split(EVALUATION_BATCH) for column in columns), strict=True):
            yield tuple(part.to(self.accelerator.device) for part in parts)


def _as_is(batch: Any) -> Any:
    return batch


def _optimizer(module: nn.Module, lr: float) -> torch.optim.Optimizer:
    """SGD; weight decay on matrices and kernels only, not on scales, biases or normalization."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD([g for g in groups if g["params"]], lr, momentum=MOMENTUM, nesterov=True)


def _schedule(done: float) -> float:
    """Share of the peak learning rate at ``done`` in [0, 1): linear warm-up, then half a cosine."""
    if done < WARMUP:
        return (done + 0.01) / (WARMUP + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP)))


@torch.no_grad()
def _keep_scales_positive(module: nn.Module) -> None:
    for quantizer in activation_quantizers(module):
        if quantizer.base.requires_grad:
            quantizer.base.clamp_(min=_SMALLEST_SCALE)


def _momenta(optimizer: Any, names: dict[int, str]) -> dict[str, Tensor]:
    """Momentum buffers by parameter name."""
    return {
        f"momentum/{names[id(parameter)]}": slots["momentum_buffer"]
        for parameter, slots in optimizer.state.items()
        if slots.get("momentum_buffer") is not None
    }


def _restore(optimizer: Any, names: dict[int, str], tensors: dict[str, Tensor]) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            buffer = tensors.get(f"momentum/{names[id(parameter)]}")
            if buffer is not None:
                optimizer.state[parameter]["momentum_buffer"] = buffer.to(parameter)
