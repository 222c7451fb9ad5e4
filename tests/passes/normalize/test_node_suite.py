"""Every node case of the standard, normalized: the outputs are still the ones of the standard."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from node_suite import Case, claimed, run, skipped
from onnx.backend.test.runner import Runner
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

from mpqtool.passes.errors import ModelError
from mpqtool.passes.load import NEWEST_OPSET, OLDEST_OPSET
from mpqtool.passes.pipelines import normalize
from mpqtool.runtime.errors import RuntimeFault
from mpqtool.runtime.session import make_session

# Why normalize refuses a case, and the operators or names of the cases it says it for.
REFUSED = {
    r"BitCast .* ONNX does not define it by other operators": r"test_bitcast_.*",
    r"CumProd .* its axis is not constant": r"test_cumprod_2d_.*",  # their axis is an input
    r"(Cast|CastLike) .* is (FLOAT4E2M1|INT2|UINT2)\.": r"test_cast(like)?_.*(FLOAT4E2M1|INT2).*",
    r"Scan .* it is a Scan over a batch": r"test_scan_sum",
    r"float32 is supported": r"test_.*",  # inputs and constants of other float types
}

# It does not implement a type of element, takes no protobuf message as input, or finds an input unfit.
_CANNOT_RUN = (Fail, RuntimeFault, RuntimeError, RuntimeException)
# Rounding noise of 1e-4 to 1e-3 beside results of up to 2000, where the case allows 1e-7 beside zeros.
INEXACT_IN_ONNX_RUNTIME = r"test_(dft|stft)(_.*)?"


@pytest.mark.slow
def test_means_what_the_standard_says() -> None:
    """One test for all: collecting them one by one would load the suite on every run."""
    passed, faults = 0, {}
    for name, case in claimed().items():
        if not OLDEST_OPSET <= _opset(case) <= NEWEST_OPSET or skipped(name):
            continue
        try:
            _check(case)
            passed += 1
        except ModelError as error:
            if not any(re.search(why, str(error)) and re.fullmatch(of, name) for why, of in REFUSED.items()):
                faults[name] = str(error)
        except Exception as error:  # whatever is wrong with a case, the others are looked at
            faults[name] = f"{type(error).__name__}: {error}"
    assert faults == {}
    assert passed > 1250


def _opset(case: Case) -> int:
    return max((entry.version for entry in case.case.model.opset_import if entry.domain == ""), default=0)


def _check(case: Case) -> None:
    """By ONNX Runtime, and by the importer where that cannot load or run the case, or is not exact enough."""
    model = ir.to_proto(normalize(ir.from_proto(case.case.model)))
    try:
        session = make_session(model.SerializeToString(), level="disabled", threads=1)
        names = [value.name for value in session.get_inputs()]
        pairs = [
            (session.run(None, dict(zip(names, map(_array, inputs), strict=True))), expected)
            for inputs, expected in case.case.data_sets
        ]
    except _CANNOT_RUN:
        pairs = []
    if not pairs or re.fullmatch(INEXACT_IN_ONNX_RUNTIME, case.name):
        run(dataclasses.replace(case, case=dataclasses.replace(case.case, model=model)))
        return
    for outputs, expected in pairs:
        with np.errstate(invalid="ignore"):
            Runner.assert_similar_outputs(expected, outputs, case.case.rtol, case.case.atol)


def _array(value: Any) -> Any:
    """The suite has arrays without dimensions as numbers."""
    return np.asarray(value) if isinstance(value, np.generic) else value
