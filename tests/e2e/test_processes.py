"""Several processes are the same code as one."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


def test_two_processes_share_the_work_and_speak_once(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "digits.mpq"
    run = subprocess.run(
        [
            sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            "-m", "mpqtool", "quantize", str(EXAMPLES / "digits.onnx"), "-o", str(out), "--json",
            "--epochs", "1", "--target-bits", "W3.3A7.5",
        ],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)  # once, not twice
    assert result["verify"]["passed"]
    assert result["metric"]["integer"] >= result["metric"]["float"] - 1.0
    assert run.stderr.count("iteration  1") == 1
