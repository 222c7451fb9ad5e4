"""What a run writes about a network whose sizes are open, and about a file that did not get smaller."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import pathlib
import time
import types
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import parse

import mpqtool
from mpqtool.emit import emit
from mpqtool.errors import ModelError, VerificationError
from mpqtool.passes.plan import Plan
from mpqtool.reporter import Reporter
from mpqtool.runtime.verify import VerifyResult, verify


@pytest.mark.parametrize("sizes", ["8,8", "h,w"], ids=["fixed", "open"])
def test_open_sizes_cost_what_the_samples_cost(
    tmp_path: pathlib.Path, rng: np.random.Generator, sizes: str
) -> None:
    text = f"""net (float[n,2,{sizes}] x) => (float[n,3] y) {{
        c = Conv<pads=[1,1,1,1]>(x, k)
        r = Relu(c)
        g = GlobalAveragePool(r)
        f = Flatten(g)
        y = Gemm<transB=1>(f, w)
    }}"""
    ir.save(
        parse(text, {"k": rng.normal(size=(4, 2, 3, 3)), "w": rng.normal(size=(3, 4))}), tmp_path / "m.onnx"
    )
    np.savez(tmp_path / "m.npz", x=rng.normal(size=(40, 2, 8, 8)).astype(np.float32))
    stream = io.StringIO()
    result = mpqtool.quantize(
        tmp_path / "m.onnx", method="impq", out=tmp_path / "out", epochs=0, target_bits="W4A8",
        reporter=Reporter(stream=stream),
    ).result  # fmt: skip
    macs = 4 * 2 * 9 * 64 + 3 * 4
    assert result["cost"]["macs"] == macs
    assert result["cost"]["bitops"] == macs * 4 * 8
    assert result["bits"]["activations_eff"] == 8
    assert result["nodes"]["mac_share_integer"] == 1
    assert result["bytes"]["integer"] == (tmp_path / "out" / "model.int.onnx").stat().st_size
    assert ("sizes: " in stream.getvalue()) == (sizes == "h,w")
    found = f"warning: the integer file has {result['bytes']['integer']} bytes, more than the "
    assert f"{found}{result['bytes']['float']} of the float file" in stream.getvalue()


def test_a_lowering_that_fails_leaves_the_files_of_the_earlier_run(
    tmp_path: pathlib.Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "net (float[n,3] x) => (float[n,4] y) { y = MatMul(x, w) }"
    ir.save(parse(text, {"w": rng.normal(size=(3, 4))}), tmp_path / "m.onnx")
    np.savez(tmp_path / "m.npz", x=rng.normal(size=(20, 3)).astype(np.float32))

    def run(seed: int) -> None:
        mpqtool.quantize(
            tmp_path / "m.onnx", method="impq", out=tmp_path / "out", epochs=0, target_bits="W4A8", seed=seed
        )

    def written() -> dict[str, bytes]:
        names = ("plan.json", "model.qdq.onnx", "model.int.onnx", "result.json", "report.html")
        return {name: (tmp_path / "out" / name).read_bytes() for name in names}

    def fail(*_: object, **__: object) -> None:
        raise ModelError("stop")

    run(0)
    before = written()
    monkeypatch.setattr("mpqtool.emit.lowered", fail)
    with pytest.raises(ModelError, match="stop"):
        run(1)
    assert written() == before


def test_a_process_beside_the_main_one_takes_no_result_of_an_earlier_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job: Any = types.SimpleNamespace(out=tmp_path, started=time.perf_counter() - 100)
    monkeypatch.setattr("mpqtool.emit.main_first", lambda: contextlib.nullcontext(False))
    (tmp_path / "result.json").write_text("{}")
    finished: Any = None
    assert emit(job, finished).result == {}
    os.utime(tmp_path / "result.json", (time.time() - 200,) * 2)
    with pytest.raises(VerificationError, match="The main process wrote no"):
        emit(job, finished)


def test_what_engines_do_not_agree_on_stays_float(
    tmp_path: pathlib.Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "net (float[n,3] x) => (float[n,2] y) { h = MatMul(x, w) s = Sin(h) y = MatMul(s, v) }"
    ir.save(parse(text, {"w": rng.normal(size=(3, 4)), "v": rng.normal(size=(4, 2))}), tmp_path / "m.onnx")
    np.savez(tmp_path / "m.npz", x=rng.normal(size=(60, 3)).astype(np.float32))
    proofs = []

    def once_apart(*arguments: Any, **options: Any) -> VerifyResult:
        """As if, the first time, engines had codes of the sine that are 3 apart."""
        proof = verify(*arguments, **options)
        proofs.append(proof)
        if len(proofs) > 1:
            return proof
        rows = [
            dataclasses.replace(row, different=7, largest=3) if row.kind == "island" else row
            for row in proof.tensors
        ]
        return dataclasses.replace(proof, passed=False, codes_different=7, tensors=tuple(rows))

    monkeypatch.setattr("mpqtool.emit.verify", once_apart)
    stream = io.StringIO()
    result = mpqtool.quantize(
        tmp_path / "m.onnx", method="ptq", min_sqnr=5, metric="sqnr_db", out=tmp_path / "out",
        reporter=Reporter(stream=stream),
    ).result  # fmt: skip
    assert [row.kind for row in proofs[0].tensors].count("island") == 1
    assert [row.kind for row in proofs[1].tensors].count("island") == 0
    assert result["verify"]["passed"]
    left = Plan.load(tmp_path / "out" / "plan.json").left_float
    assert list(left) == ["s"]
    assert "by 3 codes on test data" in left["s"]
    assert "warning: s too must stay float: engines do not agree" in stream.getvalue()
    assert (tmp_path / "out" / "model.int.onnx").exists()
