"""AdaQAT on a network small enough to see what it does."""

from __future__ import annotations

__all__ = ["AdaQatRun", "Listener"]

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from swish_network import swish_network, swish_split
from torch import Tensor, fx

from mpqtool.batch import Batch
from mpqtool.checkpoint import Checkpoint
from mpqtool.data import Split
from mpqtool.hardware import layer_costs
from mpqtool.importer import import_graph
from mpqtool.methods.adaqat import AdaQat, AdaQatSettings
from mpqtool.methods.width_start import SearchSettings
from mpqtool.passes import pipelines
from mpqtool.passes.ends import end_layers
from mpqtool.passes.normalize.fold_batch_norm import batch_norm_factors
from mpqtool.passes.place import free_values, place
from mpqtool.passes.plan import Grid
from mpqtool.passes.roles import roles
from mpqtool.reporter import Reporter
from mpqtool.run_adaqat import adaqat_network
from mpqtool.training import Recipe, Trainer


class Listener(Reporter):
    """A silent reporter that keeps its events."""

    def __init__(self) -> None:
        super().__init__(silent=True)
        self.events: list[dict[str, Any]] = []

    def event(self, name: str, /, **fields: Any) -> None:
        self.events.append(json.loads(json.dumps({"event": name, **fields})))


class AdaQatRun:
    """One training, what it saved, and what it said.

    Args:
        model: A file, not normalized; None: a Swish network with BatchNormalization.
        split: What is learned from.
        weights: Granularity of the weights.
        activations: Granularity of the activations.
        search_epochs: Epochs in which widths are learned.
        search: More settings of the search.
        batch_size: Of the training.
        recipe: Of the training.
        held_out: Gives the metric; None: minus the loss.
        settings: More settings of the method.
    """

    def __init__(
        self,
        model: ir.Model | None = None,
        split: Split | None = None,
        *,
        weights: str = "network",
        activations: str | None = "network",
        search_epochs: float = 5,
        search: dict[str, Any] | None = None,
        batch_size: int = 8,
        recipe: Recipe = Recipe(),  # noqa: B008  # frozen
        held_out: Callable[[fx.GraphModule], float] | None = None,
        **settings: Any,
    ) -> None:
        rng = np.random.default_rng(0)
        model = pipelines.normalize(swish_network(rng) if model is None else model)
        folded = pipelines.fold_batch_norm(model)
        plan = place(folded, weight_bits=8, activation_bits=8, grid=Grid.ODD)
        self.split = swish_split(rng, 64) if split is None else split
        self.reporter = Listener()
        self.trainer = Trainer(
            self.split, teacher=None, batch_size=batch_size, epoch_samples=None, seed=0,
            reporter=self.reporter, recipe=recipe,
        )  # fmt: skip
        free = free_values(folded) | {str(value.name) for value in folded.graph.inputs}
        found = {name: role for name, role in roles(folded, plan).items() if name not in free}
        ends = {str(node.inputs[1].name) for node in end_layers(folded.graph)}  # type: ignore[union-attr]
        learned = [entry.name for entry in plan.weights if entry.name not in ends]
        self.network = adaqat_network(
            import_graph(model), plan, normalized=batch_norm_factors(model), clipped=found, scratch=False
        )
        self.batches: Callable[[], Iterator[tuple[Tensor, ...]]] = lambda: self.trainer.batches_of(self.split)
        self.saved: list[Checkpoint] = []
        self.method = AdaQat(
            self.network, self.trainer, held_out=held_out or self.minus_loss, batches=self.batches,
            settings=AdaQatSettings(
                **{"epochs": 8, "lr": 0.02} | settings,
                free=free,
                search=SearchSettings(
                    **{"balance": 0.15, "weights": weights, "activations": activations} | (search or {}),
                    steps=self.trainer.steps(search_epochs),
                ),
                costs=layer_costs(folded, plan, "bitops", learned=learned, inputs=self.split.inputs),
                roles=found,
            ),
            reporter=self.reporter, save=self.save,
        )  # fmt: skip
        self.search = self.method.search

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep it as a file would hold it: what comes later does not change it."""
        tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
        self.saved.append(Checkpoint(tensors, json.loads(json.dumps(checkpoint.state))))

    def minus_loss(self, network: fx.GraphModule) -> float:
        """Higher is better."""
        (logits,) = self.trainer.predict(network, self.split)
        return -float(
            torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(self.split.labels))
        )

    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers."""
        return copy.deepcopy(dict(self.network.state_dict()))

    def batch(self, samples: int = 8) -> Batch:
        """The first samples."""
        (x,), labels = self.split.inputs.values(), self.split.labels
        assert labels is not None
        return Batch([torch.from_numpy(x[:samples])], torch.from_numpy(labels[:samples]), None)

    def between_bits(self) -> None:
        """Put every relaxed width half a bit below what is used, where one bit less is a question."""
        for variable in self.search.variables:
            variable.width.value = variable.width.bits - 0.5
