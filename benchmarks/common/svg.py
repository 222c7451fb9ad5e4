"""The pieces that pictures are made of: SVG by hand, a few kilobytes, and no plotting library."""

from __future__ import annotations

__all__ = ["document", "text"]

from collections.abc import Sequence

_STYLE = (
    "text{font:12px sans-serif}.title{font-weight:bold}.middle{text-anchor:middle}"
    ".end{text-anchor:end}.grid{stroke:#ddd}.line{fill:none;stroke-width:2}.bar{stroke-width:1.5}"
)


def document(body: Sequence[str], width: float, height: float, label: str) -> str:
    """A whole file; ``label`` says what is to be seen."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{label}"><style>{_STYLE}</style>'
        f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>{"".join(body)}</svg>\n'
    )


def text(x: float, y: float, words: str, css: str = "", *, color: str = "#333") -> str:
    return f'<text class="{css}" fill="{color}" x="{x:.1f}" y="{y:.1f}">{words}</text>'
