# SPDX-License-Identifier: Apache-2.0
"""Reports as one HTML file that loads nothing from elsewhere: tables, plots, pictures and videos inside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 76em; color: #222; padding: 0 1em }
table { border-collapse: collapse; margin: .5em 0 1.5em }
th, td { padding: .2em .9em .2em 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.bad { color: #b00020; font-weight: 600 } .good { color: #1b6e3c; font-weight: 600 }
figure { display: inline-block; margin: 0 1em 1em 0; max-width: 100% } figcaption { font-size: 13px; color: #555 }
img, video { max-width: 100%; border-radius: 3px }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """Return the page; `parts` are what the functions below return. Its policy forbids the browser any request."""
    policy = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    head = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{_STYLE}</style>'
    )
    return "\n".join([head, f"<h1>{escape(title)}</h1>", *parts, "</html>"]) + "\n"


def heading(text: str) -> str:
    """A section starts."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, verdict: str = "") -> str:
    """A paragraph; `verdict` is "good", "bad" or nothing."""
    return f"<p class='{verdict}'>{escape(text)}</p>" if verdict else f"<p>{escape(text)}</p>"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; numbers stand right."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def plot(figure: Figure, caption: str) -> str:
    """A matplotlib figure as it is drawn, at twice the usual resolution."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return image(data.getvalue(), "png", caption)


def image(data: bytes, kind: str, caption: str) -> str:
    """A picture; `kind` is "png" or "jpeg"."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f"<figure><img src='{source}' alt='{escape(caption)}'><figcaption>{escape(caption)}</figcaption></figure>"


def write(path: Path, text: str) -> None:
    """Write a file so that it is there as a whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _cell(value: Any) -> str:
    text = str(value)
    digits = text.translate(str.maketrans("", "", ".-+%/ "))
    return f"<td class='n'>{escape(text)}</td>" if digits.isdigit() else f"<td>{escape(text)}</td>"
