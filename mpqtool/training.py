"""The one fine-tuning loop, for every method, on any number of devices (Hugging Face Accelerate)."""

from __future__ import annotations

__all__ = ["Recipe", "Trainer"]

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import convert_to_fp32, set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from .batch import Batch, Observer, TaskLoss, task_loss
from .checkpoint import Checkpoint
from .data import Split
from .errors import TrainingError
from .optimization import Recipe, learning_rates, make_optimizer, optimizer_tensors, restore_optimizer
from .precision import autocast, check_precision, make_scaler
from .processes import make_accelerator
from .quantizers.attach import restrain_scales
from .reporter import Progress, Reporter

EVALUATION_BATCH = 256


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
        batch_size: Samples per batch, over all processes together.
        epoch_samples: Samples of one epoch; None: all.
        seed: Seed of the sample order.
        reporter: Where progress goes.
        recipe: Optimizer and precision; ``predict`` computes in float32 whatever it says.
        task_loss: What training makes smaller.

    Raises:
        OptionError: The device cannot train in the precision of the recipe.
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
        recipe: Recipe = Recipe(),  # noqa: B008  # frozen
        task_loss: TaskLoss = task_loss,
    ) -> None:
        if split.labels is None and teacher is None:
            raise ValueError("without labels a teacher is needed")
        self.accelerator, self.recipe, self._task_loss = make_accelerator(), recipe, task_loss
        check_precision(recipe.mixed_precision, self.accelerator.device, reporter)
        set_seed(seed)
        self.rows, self.labeled = _Rows(split), split.labels is not None
        self.epoch_samples = min(epoch_samples or len(self.rows), len(self.rows))
        self.batch_size = min(batch_size, self.epoch_samples)
        self.seed, self.reporter = seed, reporter
        self.teacher = None if teacher is None else self.accelerator.prepare(teacher.eval())
        self.epochs_begun = 0

    @property
    def batches_per_epoch(self) -> int:
        return max(1, self.epoch_samples // self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimizer; the last one makes do with the batches that are left."""
        return math.ceil(self.batches_per_epoch / self.recipe.accumulate)

    def fit(
        self,
        module: nn.Module,
        *,
        epochs: float,
        lr: float,
        label: str,
        columns: Mapping[str, object] | None = None,
        resume: Checkpoint | None = None,
        on_epoch: Callable[[int, dict[str, Tensor]], bool | None] | None = None,
        span: tuple[float, float] = (0.0, 1.0),
        observer: Observer | None = None,
    ) -> None:
        """Train ``module`` in place. The learning rate warms up linearly, then falls as a cosine to zero.

        Progress and learning rate count steps of the optimizer, of ``recipe.accumulate`` batches each.

        Args:
            module: What to train; its parameters that require a gradient.
            epochs: Passes over the (drawn) training samples; 1.6 is one and 60 % of the steps of a second.
            lr: Peak learning rate.
            label: What the progress bar and the log call this.
            columns: What the progress bar shows beside it.
            resume: A checkpoint taken by ``on_epoch`` in the midst of this very call.
            on_epoch: Called at the end of each begun epoch with their number and the optimizer's tensors.
                If it returns True, in every process alike, the training stops; ``resume`` would go on.
            span: The part of the learning-rate schedule that this call goes through: calls with
                (0.0, 0.8) and (0.8, 1.0) share one schedule.
            observer: Looks on at every step.

        Raises:
            TrainingError: The loss is no longer a number, or a batch of one sample has no variance.
        """
        module.train()
        model = self.accelerator.prepare(module)
        optimizer = make_optimizer(module, lr, self.recipe)
        scaler = make_scaler(self.recipe.mixed_precision, self.accelerator.device)
        first = 0
        if resume is not None:
            first, self.epochs_begun = resume.state["epoch"], resume.state["epochs_begun"]
            restore_optimizer(optimizer, module, scaler, resume.tensors)
        total, per_epoch = self.steps(epochs), self.steps_per_epoch
        rates = learning_rates(lr, total, span)
        with self.reporter.progress(total, label) as progress:
            progress.advance(min(first * per_epoch, total), **(columns or {}))
            for epoch in range(first, math.ceil(total / per_epoch)):
                steps = rates[epoch * per_epoch :][:per_epoch]
                loss = self._epoch(model, optimizer, scaler, steps, progress, observer)
                self.reporter.event("epoch", label=label, epoch=epoch + 1, epochs=epochs, loss=loss)
                if not math.isfinite(loss):
                    raise TrainingError(
                        f"The training diverged: the mean loss of an epoch is {loss} in {label}, at a peak "
                        f"learning rate of {lr:g}. Give a smaller --lr."
                    )
                if on_epoch and on_epoch(epoch + 1, optimizer_tensors(optimizer, module, scaler)):
                    self.reporter.event("early_stop", label=label, epoch=epoch + 1, epochs=epochs)
                    break
        self.accelerator.free_memory()  # it keeps every loader it ever prepared

    def steps(self, epochs: float) -> int:
        """Steps of the optimizer in so many epochs; any epochs at all are at least one step."""
        return max(round(epochs * self.steps_per_epoch), int(epochs > 0))

    def _epoch(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        rates: list[float],
        progress: Progress,
        observer: Observer | None,
    ) -> float:
        """Make one step at each of these learning rates, and give the mean loss of their batches."""
        losses, accumulate = [], self.recipe.accumulate
        batches = min(len(rates) * accumulate, self.batches_per_epoch)
        for index, batch in enumerate(self.batches(batches)):
            step, place = divmod(index, accumulate)
            size = min(accumulate, batches - step * accumulate)
            if place == 0:
                for group in optimizer.param_groups:
                    group["lr"] = rates[step]
                optimizer.zero_grad()
            last = place == size - 1
            if observer is not None and last:
                observer.before_forward(batch)
            # Processes exchange gradients once a step.
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                loss = self.loss(model, batch)
                scaler.scale(loss / size).backward()
            losses.append(loss.detach())
            if last:
                columns = {} if observer is None else observer.before_step(losses[-1])
                scaler.step(optimizer)
                scaler.update()
                restrain_scales(model)
                progress.advance(1, **columns)
        return float(self.accelerator.reduce(torch.stack(losses).mean(), "mean"))

    def _outputs(self, model: nn.Module, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """What a network gives in the precision of the recipe; for the loss, in float32."""
        with autocast(self.recipe.mixed_precision, self.accelerator.device):
            outputs = model(*inputs)
        widened: Sequence[Tensor] = convert_to_fp32(outputs)
        return widened

    def batches(self, count: int) -> Iterator[Batch]:
        """The first ``count`` batches of an epoch: each process its share of every batch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epochs_begun)
        self.epochs_begun += 1
        order = torch.randperm(len(self.rows), generator=generator)[: count * self.batch_size].tolist()
        # batch_size is the global one: Accelerate gives every process a slice of each batch.
        self.accelerator.dataloader_config.split_batches = self.accelerator.num_processes > 1
        loader = DataLoader(self.rows, self.batch_size, sampler=order, collate_fn=_as_is, drop_last=True)
        for columns in self.accelerator.prepare(loader):
            inputs, labels = (columns[:-1], columns[-1]) if self.labeled else (columns, None)
            yield Batch(inputs, labels, self._taught(inputs))

    @torch.no_grad()
    def _taught(self, inputs: Sequence[Tensor]) -> Sequence[Tensor] | None:
        return None if self.teacher is None else self._outputs(self.teacher, inputs)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of a module over a batch, ``()``: what training makes smaller."""
        with _told_of_single_samples():
            outputs = self._outputs(module, batch.inputs)
        return self._task_loss(outputs, batch)

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


@contextlib.contextmanager
def _told_of_single_samples() -> Iterator[None]:
    """Say in a line what torch says of a BatchNormalization whose input is ``(1, channels)``."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            "A batch of one sample has no variance for the BatchNormalization behind a Gemm. Give a "
            "--batch-size and --epoch-samples of at least 2 for each process."
        ) from error


def _as_is(batch: Any) -> Any:
    return batch
