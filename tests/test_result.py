"""The keys of result.json are a contract."""

from __future__ import annotations

import json
import pathlib

import pydantic
import pytest

from mpqtool.result import DataInfo, LayerBits, ModelInfo, ResultFile, Times

KEYS = {
    "schema": None, "method": None, "settings": None, "seed": None,
    "model": {"path", "sha256"},
    "data": {"spec", "train", "test", "labels", "mode"},
    "metric": {"name", "float", "fake_quant", "qdq", "integer"},
    "bits": {"weights_eff", "activations_eff", "layers"},
    "cost": {"macs", "bitops", "c_c", "wcr", "wcr_true"},
    "bytes": {"float", "integer", "weights_owed", "weights_stored"},
    "verify": {
        "passed", "provider", "codes_compared", "codes_different", "qdq_max_lsb", "qdq_rate",
        "top1_agreement", "local_max_lsb", "local_rate", "local_left_out",
        "real_unsettled",
    },
    "nodes": {"integer", "float", "mac_share_integer", "islands"},
    "history": None,
    "points": None,
    "budgets": None,
    "time_s": {"total", "import", "train", "lower", "verify"},
}  # fmt: skip


def _minimal() -> ResultFile:
    return ResultFile(method="impq", model=ModelInfo(path="m", sha256="0"), data=DataInfo(mode="labels"))


def test_keys_and_their_order() -> None:
    content = _minimal().to_dict()
    assert list(content) == list(KEYS)
    for key, inner in KEYS.items():
        if inner is not None:
            assert set(content[key]) == inner


def test_layer_keys() -> None:
    layer = LayerBits(name="w", op="Conv", weight_bits={"2": 3})
    assert set(layer.model_dump()) == {
        "name", "op", "macs", "weights", "weight_bits", "activation_bits",
        "weights_removed", "accumulator_max", "accumulator_bits", "saturates_without_vnni",
    }  # fmt: skip


def test_what_was_not_measured_is_null(tmp_path: pathlib.Path) -> None:
    result = _minimal()
    result.metric.float = float("nan")
    content = result.write(tmp_path / "result.json")
    assert content["metric"]["float"] is None
    assert content["verify"]["passed"] is None
    assert json.loads((tmp_path / "result.json").read_text()) == content


def test_import_is_a_key_although_it_is_a_word_of_python() -> None:
    result = _minimal()
    result.time_s = Times(**{"import": 1.5})
    assert result.to_dict()["time_s"]["import"] == 1.5


def test_a_wrong_key_is_refused_when_writing() -> None:
    with pytest.raises(pydantic.ValidationError):
        Times(training=3.0)  # type: ignore[call-arg]


def test_a_later_version_can_be_read() -> None:
    content = _minimal().to_dict()
    content["energy"] = 3
    content["verify"]["engines"] = 4
    assert ResultFile.from_json(json.dumps(content)).to_dict() == _minimal().to_dict()
