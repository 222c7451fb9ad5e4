"""The names of the files and folders in a run directory."""

from __future__ import annotations

__all__ = ["CHECKPOINT", "INT", "ITERATIONS", "LOG", "PLAN", "QDQ", "REPORT", "RESULT", "TENSORBOARD"]

PLAN, QDQ, INT = "plan.json", "model.qdq.onnx", "model.int.onnx"
RESULT, REPORT, LOG = "result.json", "report.html", "log.jsonl"
CHECKPOINT, TENSORBOARD, ITERATIONS = "checkpoint", "tensorboard", "iterations"
