# SPDX-License-Identifier: Apache-2.0
"""Reports as one HTML file that loads nothing from elsewhere: a list of blocks, rendered by templates/page.html.

page("Run 7", [heading("Success"), table(("task", "rate"), rows), plot(figure, "with 95 % intervals")])
"""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import jinja2

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Block:
    """One element of a page; which fields count depends on its kind. All text is escaped."""

    kind: Literal["heading", "paragraph", "table", "figure", "histogram"]
    text: str = ""
    level: int = 2
    verdict: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    images: Sequence[str] = ()
    caption: str = ""
    counts: Sequence[int] = ()
    shaded: tuple[float, float] = (0.0, 0.0)


def page(title: str, blocks: Sequence[Block]) -> str:
    """Return the HTML page. Its content security policy forbids the browser any request."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vla_ros"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.tests["numeric"] = _is_numeric
    return environment.get_template("page.html").render(title=title, blocks=blocks)


def heading(text: str, level: int = 2) -> Block:
    return Block("heading", text, level)


def paragraph(text: str, verdict: Literal["", "good", "bad"] = "") -> Block:
    return Block("paragraph", text, verdict=verdict)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Block:
    """Return a table; numbers are aligned to the right."""
    return Block("table", columns=columns, rows=rows)


def images(files: Sequence[bytes], kind: Literal["png", "jpeg", "webp"], caption: str) -> Block:
    """Return encoded images side by side."""
    sources = [f"data:image/{kind};base64,{base64.b64encode(file).decode()}" for file in files]
    return Block("figure", images=sources, caption=caption)


def plot(figure: Figure, caption: str) -> Block:
    """Return a matplotlib figure as a PNG image."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return images([data.getvalue()], "png", caption)


def histogram(counts: Sequence[int], shaded: tuple[float, float], caption: str) -> Block:
    """Return bars with a shaded range behind them; `shaded` is in bins, 0 to len(counts)."""
    return Block("histogram", counts=counts, shaded=shaded, caption=caption)


def _is_numeric(value: Any) -> bool:
    return str(value).translate(str.maketrans("", "", ".-+%/ ")).isdigit()
