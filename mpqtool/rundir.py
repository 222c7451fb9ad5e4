"""The names of the files in a run directory."""

from __future__ import annotations

__all__ = ["CHECKPOINT", "INT", "LOG", "PLAN", "QDQ", "REPORT", "RESULT"]

PLAN, QDQ, INT = "plan.json", "model.qdq.onnx", "model.int.onnx"
RESULT, REPORT, LOG = "result.json", "report.html", "log.jsonl"
CHECKPOINT = "checkpoint"
