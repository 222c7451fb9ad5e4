"""``mpqtool sensitivity``, end to end."""

from __future__ import annotations

import csv
import json
import pathlib
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from onnx_text import parse

import mpqtool
from mpqtool.cli import cli
from mpqtool.errors import OptionError
from mpqtool.passes.load import load_model, save_model

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "digits.onnx"
HEAD = "net (float[N, 2, 6, 6] x)"


def _run(*arguments: object) -> Any:
    return CliRunner().invoke(cli, ["sensitivity", *map(str, arguments)])


def _save(folder: pathlib.Path, outputs: str, body: str) -> pathlib.Path:
    """A file of a small network, and its samples beside it."""
    rng, path = np.random.default_rng(0), folder / "net.onnx"
    weights = {
        "w": rng.normal(size=(4, 2, 3, 3)), "v": rng.normal(size=(5, 64)) / 8, "b": 0.3 * rng.normal(size=5),
    }  # fmt: skip
    used = {name: array for name, array in weights.items() if f" {name}" in body}
    save_model(parse(f"{HEAD} => ({outputs}) {{ {body} }}", used), path)
    np.savez(path.with_suffix(".npz"), x=rng.normal(size=(300, 2, 6, 6)).astype(np.float32))
    return path


CLASSES = "float[N, 5] y", "c = Conv (x, w) r = Relu (c) f = Flatten (r) y = Gemm <transB = 1> (f, v, b)"
MAP = "float[N, 4, 4, 4] y", "c = Conv (x, w) y = Relu (c)"


def test_json_csv_and_picture(tmp_path: pathlib.Path) -> None:
    model, table, picture = _save(tmp_path, *CLASSES), tmp_path / "out" / "groups.csv", tmp_path / "p.svg"
    result = _run(model, "--samples", 200, "--json", "--csv", table, "--plot", picture)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [row["bits"] for row in found["uniform"]] == [3, 4, 5, 6, 7, 8]
    assert all(set(row) == {"bits", "bound", "measured"} for row in found["uniform"])
    bounds = [row["bound"] for row in found["uniform"]]
    assert bounds == sorted(bounds, reverse=True)
    assert all(row["measured"] <= row["bound"] <= 1 for row in found["uniform"])
    assert found["uniform"][0]["measured"] > 0
    assert (found["samples"], found["form"], found["sums"]) == (200, "classes", "signs")

    groups = found["groups"]
    kernels = {(row["name"], row["kernel"], row["weights"]) for row in groups if row["kernel"] is not None}
    assert kernels == {("w", k, 18) for k in range(4)} | {("v", k, 64) for k in range(5)}
    assert {(row["name"], row["weights"]) for row in groups if row["kernel"] is None} == {("x", 0), ("r", 0)}
    assert all(row["noise_gain"] > 0 for row in groups)
    ranked = [row["sensitivity"] for row in groups]
    assert ranked == sorted(ranked, reverse=True)

    for file, rows in ((table, groups), (table.with_name("groups.uniform.csv"), found["uniform"])):
        written = list(csv.DictReader(file.read_text().splitlines()))
        shown = [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
        assert written == shown
        assert f"wrote {file}\n" in result.stderr
    drawn = ET.fromstring(picture.read_text())
    titles = [title.text for title in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 2 * 6 + len(groups)
    assert f"8 bits: bound {bounds[-1]:.3g}" in titles


def test_table_on_the_screen(tmp_path: pathlib.Path) -> None:
    model = _save(tmp_path, *CLASSES)
    shown = _run(model)
    assert shown.exit_code == 0, shown.stderr
    assert "data: the training split has 240 samples, 512 were asked for: all are used\n" in shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["bits", "of", "all", "weights", "other", "answers,", "at", "most", "measured"]
    assert "240 samples, activations in float; nothing was trained" in lines
    assert lines[10].split()[0] == "group"
    assert len(lines) == 12 + 11 + 1  # all groups fit


def test_long_tables_are_cut_and_say_so(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpqtool.cli.sensitivity._SHOWN", 4)
    shown = _run(_save(tmp_path, *CLASSES), "--samples", 32, "--activation-bits", 4).stdout
    assert "32 samples, activations at 4 bits; nothing was trained" in shown
    assert "and 7 groups more: --csv FILE or --json gives all\n" in shown
    assert len(shown.splitlines()) == 12 + 4 + 2


def test_the_example_keeps_within_the_bound_at_every_width() -> None:
    found = mpqtool.sensitivity(EXAMPLE, samples=64)
    assert all(row["measured"] <= row["bound"] for row in found["uniform"])


def test_the_same_seed_gives_the_same_and_another_other_samples(tmp_path: pathlib.Path) -> None:
    model = _save(tmp_path, *CLASSES)
    first, again, other = (mpqtool.sensitivity(model, samples=64, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first["groups"][0]["noise_gain"] != other["groups"][0]["noise_gain"]


def test_a_width_does_not_depend_on_those_before(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scales of activations are those of the network with weights of this width."""
    model = _save(tmp_path, *CLASSES)
    of_all = mpqtool.sensitivity(model, samples=100, activation_bits=3)
    monkeypatch.setattr("mpqtool.run_sensitivity.UNIFORM_BITS", range(8, 9))
    alone = mpqtool.sensitivity(model, samples=100, activation_bits=3)
    assert alone["uniform"] == of_all["uniform"][-1:]


def test_ways_to_sum_agree(tmp_path: pathlib.Path) -> None:
    model = _save(tmp_path, *CLASSES)
    exact, signs, second = (
        mpqtool.sensitivity(model, samples=100, sums=sums) for sums in ("ranks", "signs", "runner-up")
    )
    bounds = [found["uniform"][-1]["bound"] for found in (exact, signs, second)]
    # two vectors of signs are off by about 10 % in all, and the runner-up has most of the sum
    assert bounds[1] == pytest.approx(bounds[0], rel=0.4)
    assert 0.5 * bounds[0] < bounds[2] < bounds[0]
    assert mpqtool.sensitivity(model, samples=100, sums="ranks", ranks=1)["uniform"] == second["uniform"]


def test_without_class_logits_it_says_so(tmp_path: pathlib.Path) -> None:
    model = _save(tmp_path, *MAP)
    result = _run(model, "--json", "--plot", tmp_path / "p.svg")
    assert result.exit_code == 0, result.stderr
    assert "warning: the model has no class logits" in result.stderr
    found = json.loads(result.stdout)
    assert found["form"] == "fisher"
    assert all(row["bound"] is row["measured"] is None for row in found["uniform"])
    assert all(row["noise_gain"] > 0 for row in found["groups"])
    assert "no class logits" in _run(model).stdout
    refused = _run(model, "--sums", "ranks")
    assert refused.exit_code == 2
    assert "'ranks' needs class logits" in refused.stderr


def test_outputs_without_a_gradient_are_refused(tmp_path: pathlib.Path) -> None:
    _, body = CLASSES
    model = _save(tmp_path, "int64[N, 1] a", f"{body} a = ArgMax <axis = 1> (y)")
    result = _run(model)
    assert result.exit_code == 1
    assert "No gradient reaches a weight" in result.stderr


def test_what_is_wrong_is_told_in_one_line(tmp_path: pathlib.Path) -> None:
    model = _save(tmp_path, *CLASSES)
    refused = {
        (tmp_path / "none.onnx",): (1, "no such file"),
        (model, "--ranks", 3): (2, "ranks has no effect with sums 'signs'"),
        (model, "--plot", "p.png"): (2, "plot must be the name of an .svg file, got 'p.png'"),
    }
    for arguments, (code, text) in refused.items():
        result = _run(*arguments)
        assert (result.exit_code, result.stdout) == (code, "")
        assert text in result.stderr
        assert result.stderr.count("\n") == 1
    assert _run(model, "--samples", 0).exit_code == 2
    assert _run(model, "--activation-bits", 1).exit_code == 2


def test_models_that_it_cannot_work_on(tmp_path: pathlib.Path) -> None:
    model = _save(tmp_path, *CLASSES)
    loaded = load_model(model)
    loaded.graph[0].op_type = "MadeUp"
    save_model(loaded, model)
    result = _run(model)
    assert result.exit_code == 1
    assert "MadeUp" in result.stderr
    nothing = _run(_save(tmp_path, "float[N, 2, 6, 6] y", "y = Relu (x)"))
    assert nothing.exit_code == 1
    assert "Cannot quantize" in nothing.stderr
    quantized = _save(
        tmp_path, "float[N, 2, 6, 6] y",
        "s = Constant <value_float = 0.5> () z = Constant <value = uint8 {0}> () "
        "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = Relu (d)",
    )  # fmt: skip
    assert "is quantized already. Give the float model" in _run(quantized).stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sum": "signs"}, "There is no option 'sum'"),
        ({"sums": "all"}, "sums must be one of signs, ranks, runner-up, got 'all'"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"sums": "ranks", "ranks": 0}, "ranks must be at least 1, got 0"),
        ({"activation_bits": 9}, "activation_bits must be 2 to 8, got 9"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_options_of_the_function(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        mpqtool.sensitivity(EXAMPLE, **options)
