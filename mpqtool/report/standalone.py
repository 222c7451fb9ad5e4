"""A picture of the report as a file of its own."""

from __future__ import annotations

__all__ = ["standalone"]

import importlib.resources
import re


def standalone(svg: str) -> str:
    """Add to a picture what the page of the report says of pictures."""
    start, rest = svg.split(">", 1)
    return f'{start} xmlns="http://www.w3.org/2000/svg"><style>{_style()}</style>{rest}\n'


def _style() -> str:
    """In daylight; not every viewer of a lone file knows ``var``."""
    page = importlib.resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    light, _, _ = page.partition("@media")
    colors = dict(re.findall(r"(--[\w-]+): (#\w+);", light))
    rules = re.findall(r"^svg .*", page, re.MULTILINE)
    filled = re.sub(r"var\((--[\w-]+)\)", lambda match: colors[match[1]], "".join(rules))
    return "svg{background:#fff}" + filled
