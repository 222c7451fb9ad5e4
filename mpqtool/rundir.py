"""The files of a run directory."""

from __future__ import annotations

__all__ = ["INT", "LOG", "PLAN", "QDQ", "REPORT", "RESULT", "begin"]

from .job import Job
from .processes import is_main, wait_for_all

PLAN, QDQ, INT = "plan.json", "model.qdq.onnx", "model.int.onnx"
RESULT, REPORT, LOG = "result.json", "report.html", "log.jsonl"


def begin(job: Job) -> None:
    """Make the directory, and take away what an earlier run left: nothing in it may be of another run."""
    if not is_main():
        return wait_for_all()
    job.out.mkdir(parents=True, exist_ok=True)
    for name in (PLAN, QDQ, INT, RESULT, REPORT, *([] if job.checkpoint else [LOG])):
        (job.out / name).unlink(missing_ok=True)
    job.reporter.open(job.out / LOG)
    job.reporter.event("start", path=str(job.path), resumed=job.checkpoint is not None, **job.identity)
    return wait_for_all()
