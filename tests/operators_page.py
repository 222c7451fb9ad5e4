"""docs/operators.md: which operators can be imported, and how many of the standard's own cases they pass.

Run as ``python tests/operators_page.py`` it writes the page.
"""

from __future__ import annotations

__all__ = ["PAGE", "page"]

import collections
import pathlib

import onnx
from node_suite import Case, claimed, skipped

from mpqtool.importer import supported

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "operators.md"

_HEAD = """# Operators that can be imported

<!-- Made by `python tests/operators_page.py`; a test holds it against the importer and the suite. -->

A network of these operators comes in as a `torch.fx.GraphModule` and can be trained. Files of opset 7 to 26
are read, and first brought to opset 21: an operator that opset 21 does not have is written out in others, or
refused (BitCast). The schema versions are those that the importer itself takes, from `import_graph`; those of
opset 27 and 28 come from no file yet.

Cases are the node cases of `onnx.backend.test` (onnx {version}), the standard's own suite, whose inputs and
outputs are tensors of numbers; the expansion of an operator into others counts with it. They are run against
the importer alone, through its ONNX backend (`mpqtool.importer.backend`), and
`pytest tests/importer/test_node_suite.py` runs them again.

**{operators} operators; {passed} of {cases} cases passed.** {others} of these are expansions of operators
that have no handler of their own into operators that have one.

| operator | schema versions | cases passed |
| --- | --- | --- |
"""
_SKIPPED = """
## Cases that are not passed

Each is run all the same, and the test fails if one of them begins to pass.

| case | reason |
| --- | --- |
"""


def page() -> str:
    """The text of the page."""
    cases = claimed()
    passed = [case for name, case in cases.items() if skipped(name) is None]
    left = {name: reason for name in cases if (reason := skipped(name)) is not None}
    table = supported()
    every, good = _by_operator(cases.values()), _by_operator(passed)
    head = _HEAD.format(
        version=onnx.__version__,
        operators=len(table),
        passed=len(passed),
        cases=len(cases),
        others=sum(count for operator, count in good.items() if operator not in table),
    )
    rows = [
        f"| {operator} | {', '.join(map(str, versions))} | {_share(good[operator], every[operator])} |"
        for operator, versions in table.items()
    ]
    skips = [f"| {name} | {reason} |" for name, reason in sorted(left.items())]
    return head + "\n".join(rows) + "\n" + _SKIPPED + "\n".join(skips) + "\n"


def _by_operator(cases: collections.abc.Iterable[Case]) -> collections.Counter[str]:
    return collections.Counter(case.subject[0] for case in cases)


def _share(passed: int, every: int) -> str:
    return f"{passed} of {every}" if every else "none in the suite"


if __name__ == "__main__":
    PAGE.write_text(page())
