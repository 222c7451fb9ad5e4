"""The page of a run."""

from __future__ import annotations

import json
import pathlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from mpqtool.errors import DataError
from mpqtool.report import build

NULLS: dict[str, Any] = {
    "schema": 1, "method": "impq", "model": {"path": "m.onnx", "sha256": "ab" * 32},
    "data": {"mode": "data-free"},
}  # fmt: skip
FULL: dict[str, Any] = NULLS | {
    "seed": 3,
    "settings": {"target_bits": "W3A6", "data": None, "distill": True, "mean": [0.1, 0.2]},
    "model": {"path": "dir/<script>.onnx", "sha256": "ab" * 32},
    "data": {"spec": "d.npz", "train": 80, "test": 20, "labels": True, "mode": "labels"},
    "metric": {"name": "top1", "float": 98.5, "fake_quant": 98.25, "qdq": 98.25, "integer": 98.0},
    "bits": {
        "weights_eff": 2.96,
        "activations_eff": 5.93,
        "layers": [
            {
                "name": "conv.weight", "op": "Conv", "macs": 1_234_567, "weights": 144,
                "weight_bits": {"0": 1, "2": 7, "4": 8}, "activation_bits": 8,
            },
        ],
    },
    "bytes": {"float": 100_000, "integer": 25_000, "weights_owed": 9_000, "weights_stored": 9_100},
    "verify": {"passed": True, "provider": "cpu", "codes_compared": 123_456, "codes_different": 0},
    "nodes": {
        "integer": 9, "float": 1, "islands": [{"name": "s", "op": "Softmax", "reason": "no integer form"}],
    },
    "history": [
        {"iteration": 0, "weights_eff": 4.0, "activations_eff": 8.0, "held_out": 98.0, "accepted": True},
        {"iteration": 1, "weights_eff": 3.5, "activations_eff": 8.0, "held_out": 90.0, "accepted": False},
        {"iteration": 2, "weights_eff": 3.6, "activations_eff": 8.0, "held_out": 97.5, "accepted": True},
    ],
}  # fmt: skip


class _Balance(HTMLParser):
    """Every tag is closed where it should be."""

    VOID = ("meta", "circle", "line", "polyline", "path")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def _page(folder: pathlib.Path, result: dict[str, Any]) -> str:
    (folder / "result.json").write_text(json.dumps(result))
    page = build(folder).read_text()
    balance = _Balance()
    balance.feed(page)
    assert balance.open == []
    return page


def _write_plan(folder: pathlib.Path, activations: list[dict[str, Any]]) -> None:
    (folder / "plan.json").write_text(json.dumps({"activations": activations}))


def _text(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page.partition("</style>")[2]).split())


def test_full(tmp_path: pathlib.Path) -> None:
    page = _page(tmp_path, FULL)
    text = _text(page)
    for words in (
        "98.00 %", "\N{MINUS SIGN}0.50 points against float (98.50)", "2.96", "5.93", "25.0 kB",
        "4.0 times smaller", "gave the same integers. 0 of 123,456 codes differ.", "conv.weight", "1.23 M",
        "Softmax", "no integer form", "W3A6", "0.1, 0.2", "4 bits: 50.0 % of weights",
    ):  # fmt: skip
        assert words in text, words
    assert page.count("<polyline") == 3
    assert page.count("hollow") >= 3


def test_is_self_contained_and_small(tmp_path: pathlib.Path) -> None:
    page = _page(tmp_path, FULL)
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    assert len(page) < 50_000


def test_names_from_the_model_are_escaped(tmp_path: pathlib.Path) -> None:
    assert "&lt;script&gt;.onnx" in _page(tmp_path, FULL)


def test_nulls_are_not_measured(tmp_path: pathlib.Path) -> None:
    text = _text(_page(tmp_path, NULLS))
    assert "Not verified." in text
    assert "Integer file not measured" in text
    assert "None" not in text
    assert "nan" not in text


def test_verification_that_did_not_pass(tmp_path: pathlib.Path) -> None:
    verify = {"passed": False, "codes_compared": 10, "codes_different": 3}
    text = _text(_page(tmp_path, FULL | {"verify": verify}))
    assert "Verification did not pass. The engines gave different integers. 3 of 10 codes differ." in text


def test_warnings_and_plan_are_shown(tmp_path: pathlib.Path) -> None:
    (tmp_path / "log.jsonl").write_text(
        '{"event": "warning", "text": "held out"}\n{"event": "epoch"}\n'
        '{"event": "warning", "text": "held out"}\n{"ev'
    )
    _write_plan(tmp_path, [{"name": "relu", "bits": 5, "scale": 0.125, "zero_point": 0, "later": 1}])
    text = _text(_page(tmp_path, FULL))
    assert text.count("held out") == 1
    assert "relu 5 0.125 0 0 3.88" in text
    assert "Offset" not in text


def test_tensors_that_stay_float_are_told_with_the_reason(tmp_path: pathlib.Path) -> None:
    plan = {"activations": [], "left_float": {"variance": "alone it makes 12.00% of the outputs noise"}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert "leaves in float Tensor Why variance alone it makes 12.00% of the outputs noise" in _text(
        _page(tmp_path, FULL)
    )


def test_a_signal_to_noise_ratio_is_not_held_against_that_of_float(tmp_path: pathlib.Path) -> None:
    metric = {"name": "sqnr_db", "float": 200.0, "fake_quant": 31.5, "qdq": 31.4, "integer": 31.25}
    text = _text(_page(tmp_path, FULL | {"metric": metric}))
    assert "31.25 dB power of the float outputs against" in text
    assert "against float (200" not in text


def test_ranges_show_what_was_learned_and_fold_the_rest(tmp_path: pathlib.Path) -> None:
    learned = {"name": "swish", "bits": 2, "scale": 0.5, "zero_point": 1, "offset": 0.25}
    _write_plan(tmp_path, [learned | {"name": f"swish{i}"} for i in range(200)])
    page = _page(tmp_path, NULLS)
    assert "swish7 2 0.5 1 0.25 \N{MINUS SIGN}0.25 1.25" in _text(page)
    seen, _, folded = page.partition("<summary>140 more</summary>")
    assert "swish59<" in seen
    assert "swish60<" not in seen
    assert "swish60<" in folded
    assert "swish199<" in folded


@pytest.mark.parametrize(
    "plan", ["", "[]", "{}", '{"activations": 3}', '{"activations": [3]}', '{"activations": [{"name": "a"}]}']
)
def test_plans_that_cannot_be_read_are_left_out(tmp_path: pathlib.Path, plan: str) -> None:
    (tmp_path / "plan.json").write_text(plan)
    assert "Ranges" not in _text(_page(tmp_path, FULL))


EPOCHS = [
    {"epoch": i, "weights_eff": 4.0, "activations_eff": 4.0, "held_out": held_out}
    for i, held_out in enumerate((40.0, 97.5, 98.25, None, 98.25, 97.75))
]


def test_epochs_are_a_training(tmp_path: pathlib.Path) -> None:
    page = _page(tmp_path, FULL | {"method": "lsq+", "history": EPOCHS})
    text = _text(page)
    assert "Quantized by LSQ+" in text
    assert "The training" in text
    assert "Top-1 accuracy on held-out data, %" in text
    assert "Epoch 4, with the ring, was kept (98.25 %)" in text
    assert "iteration" not in text
    assert "effective bits" not in text
    assert page.count("<polyline") == 1


def test_learned_widths_are_shown_where_the_log_has_them(tmp_path: pathlib.Path) -> None:
    row = {
        "event": "widths", "weights": 2.9, "activations": 3.8, "weight_bits": 3.0,
        "activation_bits": 4.0, "loss": 0.3, "weight_oscillations": 10, "activation_oscillations": 0,
    }  # fmt: skip
    stop = {
        "event": "frozen", "step": 16, "granularity": "network", "variable": "weights", "kind": "weights",
        "bits": 3, "reason": "oscillation",
    }  # fmt: skip
    events = [row | {"step": 8}, row | {"step": 16}, stop]
    history = FULL | {"method": "adaqat", "history": EPOCHS}
    assert "The bit-widths" not in _text(_page(tmp_path, history))
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
    page = _page(tmp_path, history)
    assert page.count("<svg") == 2
    assert "Quantized by AdaQAT" in _text(page)
    assert "The bit-widths bits" in _text(page)
    assert "weights stop at 3 bits: they oscillated between 2 and 3 (oscillation), step 16 The tr" in _text(
        page
    )


def test_no_training_is_no_chart(tmp_path: pathlib.Path) -> None:
    page = _page(tmp_path, FULL | {"method": "lsq", "history": EPOCHS[:1]})
    assert "<svg" not in page
    assert "The training" not in page


def test_settings_that_were_not_given_are_left_out(tmp_path: pathlib.Path) -> None:
    text = _text(_page(tmp_path, FULL | {"settings": {"patience": None, "all_layers": False, "lr": 0.01}}))
    assert text.endswith("Settings all_layers no lr 0.01")


def test_without_accuracy_there_is_no_second_panel(tmp_path: pathlib.Path) -> None:
    rows = [{"weights_eff": 3.0, "activations_eff": 3.0}]
    assert _page(tmp_path, FULL | {"history": rows}).count("<polyline") == 2


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 2}'])
def test_other_files_are_refused(tmp_path: pathlib.Path, content: str) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(DataError, match="is not a result of mpqtool"):
        build(tmp_path)
    assert not (tmp_path / "report.html").exists()
