"""The search for widths looks on, and changes nothing but widths."""

from __future__ import annotations

import copy
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from adaqat_runs import AdaQatRun
from onnx_text import parse
from torch import Tensor

from mpqtool.methods.width_variables import Variable
from mpqtool.methods.widths import Width
from mpqtool.training import Recipe

GRANULARITIES = [("network", "network"), ("layer", "layer"), ("kernel", "layer")]
TESTS = pathlib.Path(__file__).parents[1]

_DROPPING = """
    net (float[N, 2, 6, 6] x) => (float[N, 3] y) {
        c0 = Conv <pads = [1, 1, 1, 1]> (x, w0)
        n0 = BatchNormalization (c0, g0, b0, m0, v0)
        r0 = Relu (n0)
        d0 = Dropout (r0, ratio, yes)
        c1 = Conv <pads = [1, 1, 1, 1]> (d0, w1)
        r1 = Relu (c1)
        p = GlobalAveragePool (r1)
        f = Flatten (p)
        y = Gemm <transB = 1> (f, w2)
    }
"""


def _dropping() -> ir.Model:
    """A network that draws random numbers in training, with and without BatchNormalization."""
    rng = np.random.default_rng(1)
    ones = {"g0": np.ones(4), "b0": np.zeros(4), "m0": np.zeros(4), "v0": np.ones(4)}
    drawn = {
        "w0": rng.normal(size=(4, 2, 3, 3)) / 4, "w1": rng.normal(size=(4, 4, 3, 3)) / 4,
        "w2": rng.normal(size=(3, 4)),
    }  # fmt: skip
    return parse(_DROPPING, {**ones, **drawn, "ratio": np.float32(0.5), "yes": np.array(True)})


def _forwards(run: AdaQatRun) -> list[bool]:
    """Filled with an entry for each forward pass in training mode: whether it has a gradient."""
    passes: list[bool] = []
    run.network.register_forward_hook(
        lambda module, *_: passes.append(torch.is_grad_enabled()) if module.training else None
    )
    return passes


def _about_to_measure() -> AdaQatRun:
    """Widths of the network, the step before the first that measures."""
    run = AdaQatRun()
    run.method.initialize()
    run.between_bits()
    run.network.train()
    _look(run, 7)
    return run


def _still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let widths be measured, and stay."""
    monkeypatch.setattr(Width, "descend", lambda *_, **__: None)
    monkeypatch.setattr(Width, "settle_if_done", lambda *_, **__: None)


def _look(run: AdaQatRun, times: int) -> None:
    """Steps of a training that changes nothing, each on the same batch."""
    batch = run.batch()
    for _ in range(times):
        run.search.before_forward(batch)
        run.network.zero_grad()
        loss = run.trainer.loss(run.network, batch)
        loss.backward()
        run.search.before_step(loss.detach())


def test_measuring_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    _still(monkeypatch)
    ends, counts = [], []
    for observed in (True, False):
        run = AdaQatRun(
            _dropping(), weights="kernel", activations="layer", epochs=2, recipe=Recipe(optimizer="adamw")
        )
        run.method.initialize()
        run.between_bits()
        passes, slots = _forwards(run), dict[str, Tensor]()
        torch.manual_seed(5)
        run.trainer.fit(
            run.network, epochs=2, lr=0.02, label="", observer=run.search if observed else None,
            on_epoch=lambda _, tensors, slots=slots: slots.update(tensors),
        )  # fmt: skip
        ends.append(run.state() | slots | {"random": torch.get_rng_state()})
        counts.append(len(passes))

    seen, plain = ends
    assert counts[0] > counts[1]
    assert seen.keys() == plain.keys()
    assert [name for name in seen if not torch.equal(seen[name], plain[name])] == []


def test_gradients_and_modules_are_left_alone() -> None:
    run = _about_to_measure()
    run.trainer.loss(run.network, run.batch()).backward()
    before = {name: None if p.grad is None else p.grad.clone() for name, p in run.network.named_parameters()}
    states, random = run.state(), torch.get_rng_state()
    momenta = [getattr(module, "momentum", None) for module in run.network.modules()]
    passes = _forwards(run)

    run.search.before_forward(run.batch())

    assert passes.count(False) == len(passes) > 0
    for name, parameter in run.network.named_parameters():
        assert (before[name] is None) == (parameter.grad is None)
        assert parameter.grad is None or torch.equal(parameter.grad, before[name]), name
    after = run.state()
    # Scales of DoReFa's weights are made at every forward pass.
    made = {f"quantizers.w{i}.scale" for i in range(5)}
    assert {name for name in states if not torch.equal(states[name], after[name])} <= made
    assert torch.equal(torch.get_rng_state(), random)
    assert [getattr(module, "momentum", None) for module in run.network.modules()] == momenta
    assert run.network.training


def test_statistics_stay_where_a_pass_gives_no_numbers() -> None:
    run = _about_to_measure()
    batch = run.batch()
    batch.inputs[0][0, 0, 0, 0] = torch.inf
    before, passes = run.state(), _forwards(run)
    run.search.before_forward(batch)
    assert passes
    after = run.state()
    statistics = [name for name in before if name.startswith(("m", "v"))]
    assert len(statistics) == 6
    assert all(torch.equal(before[name], after[name]) for name in statistics)


def test_bits_come_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    run = _about_to_measure()
    before = {name: t for name, t in run.state().items() if name.endswith(".bits")}
    monkeypatch.setattr(run.trainer, "loss", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.search.before_forward(run.batch())
    assert all(torch.equal(t, run.network.state_dict()[name]) for name, t in before.items())


@pytest.mark.parametrize(("weights", "activations"), GRANULARITIES)
def test_the_bracket_is_the_loss_of_one_bit_less(
    monkeypatch: pytest.MonkeyPatch, weights: str, activations: str
) -> None:
    _still(monkeypatch)
    run = AdaQatRun(weights=weights, activations=activations)
    run.method.initialize()
    for variable in run.search.variables:  # at 3 bits, one less is no small matter
        variable.use(3)
        variable.width.bits = 3
    run.between_bits()
    run.network.train()

    _look(run, 24)

    batch = run.batch()
    here = float(run.trainer.loss(copy.deepcopy(run.network), batch).detach())

    def less(variables: list[Variable]) -> float:
        other = copy.deepcopy(run.network)
        places = {id(q): name for name, q in run.network.named_modules()}
        for variable in variables:
            for member in variable.members:
                bits = other.get_submodule(places[id(member)]).bits
                bits[... if variable.kernel is None else variable.kernel] = 2
        return here - float(run.trainer.loss(other, batch).detach())

    assert all(variable.width.measured == 3 for variable in run.search.variables)
    for kind in ("weights", "activations"):
        asked = [variable for variable in run.search.variables if variable.kind == kind]
        found = sum(variable.width.bracket for variable in asked)
        # They share out one number, in float32; and a mean of equal numbers is rounded as well.
        assert found == pytest.approx(less(asked), rel=1e-5, abs=1e-7)
        # Each has its own part, by what it does itself.
        assert len({variable.width.bracket for variable in asked}) == len(asked)
    assert max(abs(variable.width.bracket) for variable in run.search.variables) > 1e-3


@pytest.mark.parametrize(("weights", "activations"), GRANULARITIES)
def test_it_takes_few_forward_passes_more(
    monkeypatch: pytest.MonkeyPatch, weights: str, activations: str
) -> None:
    _still(monkeypatch)  # every width can be measured at every update, which is the worst case
    run = AdaQatRun(weights=weights, activations=activations)
    run.method.initialize()
    run.between_bits()
    run.network.train()
    passes = _forwards(run)
    _look(run, 24)
    assert passes.count(True) == 24
    assert 0 < passes.count(False) <= 0.25 * 24


@pytest.mark.parametrize(
    ("weights", "activations", "steps"),
    [("network", None, 1), ("network", None, 9), *(("kernel", "layer", steps) for steps in (0, 1, 2, 9))],
)
def test_every_budget_is_kept(weights: str, activations: str | None, steps: int) -> None:
    run = AdaQatRun(weights=weights, activations=activations, search_epochs=steps / 8)
    run.method.initialize()
    run.network.train()
    _look(run, steps)
    assert run.search.is_done
    settled = [event for event in run.reporter.events if event["event"] == "frozen"]
    assert {event["reason"] for event in settled} <= {"oscillation", "bound", "stall", "budget"}
    assert {event["step"] for event in settled} <= set(range(1, steps + 1))
    before = run.state()
    _look(run, 9)  # the rest of the training is as without it
    assert all(torch.equal(before[n], t) for n, t in run.state().items() if n.endswith("bits"))


def test_what_is_said_is_what_is_used() -> None:
    run = AdaQatRun(weights="layer", activations="layer", search_epochs=8, search={"balance": 1.0})
    run.method.initialize()
    run.trainer.fit(run.network, epochs=8, lr=0.02, label="", observer=run.search)
    events = run.reporter.events
    updates = [event for event in events if event["event"] == "widths"]
    assert [event["step"] for event in updates] == list(range(8, 8 * len(updates) + 1, 8))
    assert all(event["weights"] <= event["weight_bits"] + 0.1 for event in updates)
    assert updates[-1]["hardware"] < updates[0]["hardware"] == 64
    settled = [event for event in events if event["event"] == "frozen"]
    names = [event["variable"] for event in settled]
    assert len(set(names)) == len(names)
    used = {q.name: int(q.bits.max()) for q in run.network.get_submodule("quantizers").children()}
    for event in settled:
        assert used[event["variable"]] == event["bits"]
    untouched = {q.name for q in run.network.get_submodule("quantizers").children()} - set(names)
    assert {used[name] for name in untouched} == {8}


_SCRIPT = """
import json, sys
from accelerate import PartialState
from test_width_search import watched
found = watched()
rank = PartialState(cpu=True).process_index
open(f"{sys.argv[1]}/{rank}.json", "w").write(json.dumps(found))
"""


def watched() -> dict[str, Any]:
    """What the search sees and finds in this process."""
    run = AdaQatRun(weights="kernel", activations="layer", search_epochs=3)
    run.method.initialize()
    run.between_bits()
    update, losses = run.search.before_step, list[float]()

    def before_step(loss: Tensor) -> dict[str, object]:
        losses.append(float(loss))
        return update(loss)

    run.search.before_step = before_step  # type: ignore[method-assign]
    run.trainer.fit(run.network, epochs=1, lr=0.02, label="", observer=run.search)
    return {
        "losses": losses,
        "events": run.reporter.events,
        "widths": run.search.state()["widths"],
        "bits": {name: t.tolist() for name, t in run.state().items() if name.endswith("bits")},
    }


def test_processes_agree(tmp_path: pathlib.Path) -> None:
    (tmp_path / "two.py").write_text(_SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS}:{TESTS / 'methods'}"}
    ran = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "two.py",
         str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["widths"] == second["widths"]
    assert first["bits"] == second["bits"]
    assert any(width["bracket"] for width in first["widths"])
    # Each has half of a batch; the loss that counts is the mean, rounded once to float32 (24 bits).
    (update,) = [event for event in first["events"] if event["event"] == "widths"]
    here, there = first["losses"][7], second["losses"][7]
    assert here != there
    assert update["loss"] == pytest.approx((here + there) / 2, rel=2**-24, abs=0)
