"""Hold the result.json of the digits example against what the project promises: every line must say ok."""

from __future__ import annotations

import json
import pathlib
import sys


def main(path: str) -> int:
    r = json.loads(pathlib.Path(path).read_text())
    weights_eff, activations_eff = r["bits"]["weights_eff"], r["bits"]["activations_eff"]
    drop = r["metric"]["float"] - r["metric"]["integer"]
    owed, stored = r["bytes"]["weights_owed"], r["bytes"]["weights_stored"]
    checks = [
        ("effective weight bits, at most 3", weights_eff, weights_eff <= 3.0),
        ("effective activation bits, at most 6", activations_eff, activations_eff <= 6),
        ("points lost to float, at most 1", drop, drop <= 1.0),
        ("verified", r["verify"]["passed"], r["verify"]["passed"] is True),
        ("codes different, none", r["verify"]["codes_different"], r["verify"]["codes_different"] == 0),
        ("codes compared, 100,000", r["verify"]["codes_compared"], r["verify"]["codes_compared"] >= 100_000),
        ("weight bytes stored / owed, at most 1.10", stored / owed, stored <= 1.10 * owed),
        ("float islands, none", r["nodes"]["islands"], r["nodes"]["islands"] == []),
        ("seconds, under 240", r["time_s"]["total"], r["time_s"]["total"] < 240),
    ]
    for what, found, passed in checks:
        print(f"{'ok  ' if passed else 'FAIL'}  {what}: {found}")
    folder = pathlib.Path(path).parent
    missing = [
        name
        for name in ("plan.json", "model.qdq.onnx", "model.int.onnx", "report.html", "log.jsonl")
        if not (folder / name).is_file()
    ]
    print(f"{'FAIL' if missing else 'ok  '}  files missing: {missing}")
    return int(bool(missing) or not all(passed for _, _, passed in checks))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
