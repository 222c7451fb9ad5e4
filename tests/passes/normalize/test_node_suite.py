"""Every node case of the standard, normalized: the outputs are still the ones of the standard."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import onnx_ir as ir
import pytest
from node_suite import Case, claimed, run, skipped
from onnx.backend.test.runner import Runner

from mpqtool.passes.errors import ModelError
from mpqtool.passes.load import NEWEST_OPSET, OLDEST_OPSET
from mpqtool.passes.pipelines import normalize
from mpqtool.runtime.session import make_session

# Why normalize refuses a case, and the operators or names of the cases it says it for.
REFUSED = {
    r"BitCast .* ONNX does not define it by other operators": r"test_bitcast_.*",
    r"CumProd .* its axis is not constant": r"test_cumprod_2d_.*",  # their axis is an input
    r"(Cast|CastLike) .* is (FLOAT4E2M1|INT2|UINT2)\.": r"test_cast(like)?_.*(FLOAT4E2M1|INT2).*",
    r"Scan .* it is a Scan over a batch": r"test_scan_sum",
    r"float32 is supported": r"test_.*",  # inputs and constants of other float types
}


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
    """By ONNX Runtime, and by the importer where that cannot run the case, or is itself wrong."""
    model = ir.to_proto(normalize(ir.from_proto(case.case.model)))
    try:
        session = make_session(model.SerializeToString(), level="disabled", threads=1)
        for inputs, expected in case.case.data_sets:
            feeds = dict(zip((value.name for value in session.get_inputs()), inputs, strict=True))
            with np.errstate(invalid="ignore"):
                Runner.assert_similar_outputs(
                    expected, session.run(None, feeds), case.case.rtol, case.case.atol
                )
    except Exception:
        run(dataclasses.replace(case, case=dataclasses.replace(case.case, model=model)))
