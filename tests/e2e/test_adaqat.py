"""AdaQAT from a float file to a verified integer file."""

from __future__ import annotations

import collections
import io
import json
import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import parse
from swish_network import swish_network, swish_split

import mpqtool
from mpqtool.errors import OptionError
from mpqtool.passes import pipelines
from mpqtool.passes.plan import Grid, Plan
from mpqtool.reporter import Reporter

REASONS = {"oscillation", "bound", "stall", "budget"}

_GEMMS = """
    net (float[N, 6] x) => (float[N, 3] y) {
        a = Gemm <transB = 1> (x, w0, b0)
        b = Relu (a)
        c = Gemm <transB = 1> (b, w1)
        d = Relu (c)
        e = Gemm <transB = 1> (d, w2)
        f = Relu (e)
        y = Gemm <transB = 1> (f, w3)
    }
"""

_PICTURES = """
    net (float[N, 2, 6, 6] x) => (float[N, 2, 6, 6] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w0)
        b = LeakyRelu (a)
        c = Conv <pads = [1, 1, 1, 1]> (b, w1)
        d = Relu (c)
        y = Conv <pads = [1, 1, 1, 1]> (d, w2)
    }
"""

_ATTENTION = """
    net (float[N, 4, 6] x) => (float[N, 3] y) {
        h = MatMul (x, w0)
        hr = Relu (h)
        q = MatMul (hr, w1)
        k = MatMul (hr, w2)
        v = MatMul (hr, w3)
        kt = Transpose <perm = [0, 2, 1]> (k)
        s = MatMul (q, kt)
        p = Softmax <axis = -1> (s)
        o = MatMul (p, v)
        z = Add (o, hr)
        g = MatMul (z, w4)
        r = Relu (g)
        f = Flatten (r)
        y = Gemm <transB = 1> (f, w5)
    }
"""


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Float files, and the data beside each."""
    rng = np.random.default_rng(0)
    made = tmp_path_factory.mktemp("adaqat")
    swish, split = swish_network(rng), swish_split(rng, 80)
    images = {"x": split.inputs["x"], "label": split.labels}
    files = {
        "swish": (swish, images),
        "folded": (pipelines.fold_batch_norm(pipelines.normalize(swish)), images),
        "pictures": (
            parse(_PICTURES, {"w0": _normal(rng, 4, 2, 3, 3), "w1": _normal(rng, 4, 4, 3, 3),
                              "w2": _normal(rng, 2, 4, 3, 3)}),
            {"x": images["x"]},
        ),
    }  # fmt: skip
    rows = rng.normal(size=(64, 6)).astype(np.float32)
    gemms = {"w0": _normal(rng, 6, 6), "b0": np.zeros(6), "w1": _normal(rng, 6, 6), "w2": _normal(rng, 6, 6),
             "w3": _normal(rng, 3, 6)}  # fmt: skip
    gemms["w1"][2] = 0  # as pruning leaves it
    files["gemms"] = (parse(_GEMMS, gemms), {"x": rows, "label": rows[:, :3].argmax(1)})
    words = rng.normal(size=(64, 4, 6)).astype(np.float32)
    matrices = {f"w{i}": _normal(rng, 6, 6) for i in range(5)} | {"w5": _normal(rng, 3, 24)}
    files["attention"] = (parse(_ATTENTION, matrices), {"x": words, "label": words[:, 0, :3].argmax(1)})
    for name, (model, arrays) in files.items():
        ir.save(model, made / f"{name}.onnx")
        np.savez(made / f"{name}.npz", **arrays)
    np.savez(made / "unlabeled.npz", x=images["x"])
    return made


def _quantize(
    folder: pathlib.Path, out: pathlib.Path, name: str = "swish", **options: Any
) -> tuple[dict[str, Any], Plan, list[dict[str, Any]]]:
    """Result, plan and log of a run whose search is long enough for a bit or two."""
    given = {"batch_size": 2, "epochs": 2, "start_bits": "W4A5", "lambda_": 1.0, "target": "standard"}
    if "data" in options:
        options["data"] = str(folder / options["data"])
    run = mpqtool.quantize(folder / f"{name}.onnx", out=out, method="adaqat", **given | options)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return run.result, Plan.load(out / "plan.json"), log


def _assert_whole(result: dict[str, Any], plan: Plan, log: list[dict[str, Any]]) -> None:
    """Files are proved, and all that is said of widths is the same."""
    verify = result["verify"]
    assert verify["passed"]
    assert verify["codes_different"] == 0
    assert verify["codes_compared"] > 0
    assert {entry.grid for entry in plan.weights} == {Grid.ODD}
    # Where layers are told apart by their weights, result and plan name the same widths.
    layers = {layer["name"]: layer["weight_bits"] for layer in result["bits"]["layers"]}
    assert layers == {w.name: dict(collections.Counter(map(str, sorted(w.bits)))) for w in plan.weights}
    settled = [event for event in log if event["event"] == "frozen"]
    assert {event["reason"] for event in settled} <= REASONS
    bits = {w.name: w.bits for w in plan.weights}
    for event in settled:
        name, _, kernel = event["variable"].partition("[")
        if event["kind"] == "weights" and name in bits:
            found = bits[name] if not kernel else (bits[name][int(kernel[:-1])],)
            assert set(found) <= {0, event["bits"]}
        elif event["kind"] == "activations" and name != "activations":
            entry = plan.activation(name)
            assert entry is not None
            assert entry.bits == event["bits"]


@pytest.mark.parametrize(
    ("granularity", "hardware", "options"),
    [
        ("network", "bitops", {"data": "unlabeled.npz"}),
        ("layer", "latency", {"from_scratch": True, "epochs": 4, "activation_granularity": "network"}),
        ("kernel", "bitops", {"all_layers": True, "distill": True, "epochs": 4}),
        ("kernel", "size", {"epochs": 4}),
    ],
)
def test_what_is_trained_is_what_is_deployed(
    folder: pathlib.Path, tmp_path: pathlib.Path, granularity: str, hardware: str, options: dict[str, Any]
) -> None:
    said = io.StringIO()
    whole = result, plan, log = _quantize(
        folder, tmp_path / "out", granularity=granularity, hardware=hardware,
        reporter=Reporter(stream=said), **options,
    )  # fmt: skip

    _assert_whole(*whole)
    assert result["nodes"]["islands"] == []
    first, *middle, last = (set(entry.bits) for entry in plan.weights)
    if "all_layers" not in options:
        assert first == last == {8}
    assert set.union(*middle) & {1, 2, 3}  # the search has found a bit that nobody needs
    if granularity == "network":
        assert len(set.union(*middle)) == 1
    read = {"s0", "s1", "s2"}  # by layers whose widths are learned
    widths = {a.name: a.bits for a in plan.activations if a.name in read}
    assert widths.keys() == read
    if hardware == "size":
        assert set(widths.values()) == {5}
    if "network" in (granularity, options.get("activation_granularity")):
        assert len(set(widths.values())) == 1
    settled = [event for event in log if event["event"] == "frozen"]
    assert {event["granularity"] for event in settled if event["kind"] == "weights"} == {granularity}
    assert ("activations" in {event["kind"] for event in settled}) == (hardware != "size")
    if "activation_granularity" in options:  # the one width of activations is the network's, also when said
        (shared,) = [event for event in settled if event["kind"] == "activations"]
        assert (shared["variable"], {shared["bits"]}) == ("activations", set(widths.values()))
        assert "network-wise  activations at" in said.getvalue()
        assert "layer-wise  activations" not in said.getvalue()
        assert f"activations stop at {shared['bits']} bit" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(
            "folded",
            {"granularity": "kernel", "accumulate": 2, "mixed_precision": "bf16"},
            id="folded-batch-norm",
        ),
        pytest.param("folded", {"epochs": 0, "granularity": "layer"}, id="no-epochs"),
        pytest.param("gemms", {"granularity": "kernel"}, id="gemm-only"),
        pytest.param("pictures", {"granularity": "layer"}, id="pictures-out"),
        pytest.param("attention", {"granularity": "layer", "all_layers": True}, id="attention"),
    ],
)
def test_every_kind_of_file(
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    name: str,
    options: dict[str, Any],
) -> None:
    said = io.StringIO()
    whole = _, plan, log = _quantize(
        folder, tmp_path / "out", name, reporter=Reporter(stream=said), **options
    )
    _assert_whole(*whole)
    put_back = "BatchNormalization is put back" in said.getvalue()
    assert put_back == (name not in ("gemms", "attention"))
    if name == "gemms":
        assert plan.weights[1].bits[2] == 0
    if options.get("epochs") == 0:
        assert [set(entry.bits) for entry in plan.weights] == [{8}, {4}, {4}, {4}, {8}]
        assert not [event for event in log if event["event"] in ("widths", "frozen")]


def test_without_a_layer_to_learn_of_it_says_so(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    text = """
        net (float[N, 6] x) => (float[N, 3] y) {
            a = Gemm <transB = 1> (x, w0)
            b = Relu (a)
            y = Gemm <transB = 1> (b, w1)
        }
    """
    ir.save(parse(text, {"w0": _normal(rng, 6, 6), "w1": _normal(rng, 3, 6)}), tmp_path / "two.onnx")
    data = str(folder / "gemms.npz")
    with pytest.raises(
        OptionError, match=r"There is no width to learn: all 2 layers .*--all-layers"
    ) as caught:
        _quantize(tmp_path, tmp_path / "out", "two", data=data)
    assert "\n" not in str(caught.value)
    whole = _quantize(tmp_path, tmp_path / "out", "two", data=data, all_layers=True, epochs=1)
    _assert_whole(*whole)


class _Killed(Reporter):
    """Ends the run when an epoch of so many has been trained, before it is saved."""

    def __init__(self, epochs: int) -> None:
        super().__init__(silent=True)
        self.left = epochs

    def event(self, name: str, /, **fields: Any) -> None:
        super().event(name, **fields)
        self.left -= name == "epoch"
        if self.left == 0:
            raise KeyboardInterrupt


# The network in two epochs, layers in two, one more of training, one in integers.
LONG = {"epochs": 6, "epoch_samples": 32, "granularity": "layer", "hardware": "latency"}


def _timed(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Let layers take other times, as they do when they are measured again."""
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(
        "mpqtool.hardware.layer_times", lambda *_: {f"w{i}": [float(rng.uniform(1, 9))] for i in range(5)}
    )


def test_a_killed_run_goes_on_to_the_same_file(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _timed(monkeypatch, 0)
    straight, out = tmp_path / "straight", tmp_path / "out"
    expected, _, promised = _quantize(folder, straight, **LONG)

    # Stopped in the search, twice, after the search, and in integers: before each epoch is saved.
    for seed, epochs in enumerate((2, 2, 2, 2)):
        _timed(monkeypatch, seed)
        with pytest.raises(KeyboardInterrupt):
            _quantize(folder, out, **LONG, reporter=_Killed(epochs), resume=seed > 0)
    result, _, log = _quantize(folder, out, **LONG, resume=True)

    for name in ("plan.json", "model.qdq.onnx", "model.int.onnx"):
        assert (out / name).read_bytes() == (straight / name).read_bytes(), name
    assert result["history"] == expected["history"]
    for kind in ("widths", "frozen", "measured", "integers"):
        # Of two lines of the same step the later one counts.
        wanted, found = (
            {(e.get("step"), e.get("variable"), e.get("epoch")): e | {"t": 0}
             for e in events if e["event"] == kind}
            for events in (promised, log)
        )  # fmt: skip
        assert wanted == found
        assert wanted
