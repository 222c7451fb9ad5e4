"""Verification of files that were made for other targets than the CPU."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
from targets import qdq_and_feeds
from verified import Files

from mpqtool.passes import pipelines
from mpqtool.passes.lower import sums
from mpqtool.passes.metadata import TARGET
from mpqtool.passes.targets import TARGETS
from mpqtool.passes.values import array, is_op, set_array
from mpqtool.runtime.errors import RuntimeFault
from mpqtool.runtime.inspect import inspect
from mpqtool.runtime.providers import PROVIDERS
from mpqtool.runtime.session import make_session


def _files(folder: pathlib.Path, rng: np.random.Generator, target: str) -> Files:
    qdq, feeds = qdq_and_feeds(rng, "residual", weight_bits=3, activation_bits=6)
    files = Files(folder / f"{target}.qdq.onnx", folder / f"{target}.int.onnx", feeds)
    ir.save(qdq, files.qdq)
    ir.save(pipelines.lower(qdq, target=target), files.integer)
    return files


@pytest.mark.parametrize("target", ["standard", "cuda"])
def test_passes_with_as_many_codes_as_for_the_cpu(
    tmp_path: pathlib.Path, rng: np.random.Generator, target: str
) -> None:
    state = rng.bit_generator.state
    on_cpu = _files(tmp_path, rng, "cpu").verify()
    rng.bit_generator.state = state

    result = _files(tmp_path, rng, target).verify()

    assert result.passed
    assert result.codes_compared == on_cpu.codes_compared
    assert result.codes_different == 0
    assert result.constants_compared > 4 * 2 * 9 + 8 * 4 * 9 + 8 * 4 + 5 * 8
    assert result.qdq_rate == on_cpu.qdq_rate


def _alter_weight(model: ir.Model) -> None:
    stream = next(value for name, value in model.graph.initializers.items() if name.endswith(".packed"))
    numbers = np.array(array(stream))
    numbers[5] ^= 1
    set_array(stream, numbers)


def _alter_factor(model: ir.Model) -> None:
    name = next(name for name in model.graph.initializers if name.endswith(".factor"))
    value = model.graph.initializers[name]
    set_array(value, np.nextafter(np.array(array(value)), np.float32(1)))


@pytest.mark.parametrize("alter", [_alter_weight, _alter_factor])
@pytest.mark.parametrize("target", ["standard", "cuda"])
def test_fails_if_one_number_of_the_file_is_altered(
    tmp_path: pathlib.Path, rng: np.random.Generator, target: str, alter: object
) -> None:
    files = _files(tmp_path, rng, target)
    files.change(alter)

    result = files.verify()

    assert not result.passed
    assert result.constants_different >= 1


def test_fails_if_codes_are_no_integers(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    files = _files(tmp_path, rng, "cuda")

    def unrounded(model: ir.Model) -> None:
        clip = next(node for node in model.graph if node.outputs[0].name == "r0.codes")
        node = clip.inputs[0].producer()
        while not is_op(node, "Round"):
            node = node.inputs[0].producer()
        node.op_type = "Identity"

    files.change(unrounded)

    result = files.verify()

    assert not result.passed
    assert result.first_different.startswith("r0.codes (ort:")


def test_a_target_that_does_not_exist_is_a_fault(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    files = _files(tmp_path, rng, "cuda")
    files.change(lambda model: model.metadata_props.update({TARGET: "npu"}))
    with pytest.raises(RuntimeFault, match="Cannot lower for target 'npu', allowed: cpu, standard, cuda"):
        files.verify()


def test_inspect_finds_the_same_layers_for_every_target(
    tmp_path: pathlib.Path, rng: np.random.Generator
) -> None:
    state = rng.bit_generator.state
    found = {}
    for target in TARGETS:
        rng.bit_generator.state = state
        found[target] = inspect(_files(tmp_path, rng, target).integer)
    assert [facts["target"] for facts in found.values()] == list(TARGETS)
    known = ("name", "op", "macs", "weights", "weight_bits", "activation_bits")
    layers = [[{key: row[key] for key in known} for row in f["bits"]["layers"]] for f in found.values()]
    assert layers[0] == layers[1] == layers[2]
    for facts in found.values():
        assert facts["kind"] == "int"
        assert facts["bits"]["activations_eff"] == found["cpu"]["bits"]["activations_eff"]
        assert facts["cost"] == found["cpu"]["cost"]
        for key in ("weights_owed", "weights_stored"):
            assert facts["bytes"][key] == found["cpu"]["bytes"][key]
        for key in ("float", "islands", "mac_share_integer"):
            assert facts["nodes"][key] == found["cpu"]["nodes"][key]


def test_a_sum_in_parts_is_one_layer(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:

    whole = inspect(_files(tmp_path, np.random.default_rng(0), "cuda").integer)
    monkeypatch.setattr(sums, "EXACT_BELOW", 2**13)
    parts = inspect(_files(tmp_path, np.random.default_rng(0), "cuda").integer)
    assert parts["operators"]["Conv"] > whole["operators"]["Conv"]
    assert parts["bits"] == whole["bits"]
    assert parts["cost"] == whole["cost"]
    assert parts["bytes"]["weights_stored"] == whole["bytes"]["weights_stored"]


def test_on_a_gpu(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    files = _files(tmp_path, rng, "cuda")
    try:
        session = make_session(files.integer, provider="cuda")
    except RuntimeFault as fault:
        pytest.skip(f"CUDA does not work here: {fault}")
    options = session.get_provider_options()[PROVIDERS["cuda"]]
    assert options["use_tf32"] == "0"

    result = files.verify(provider="cuda")

    assert result.provider == "cuda"
    assert result.passed
    assert result.codes_different == 0
