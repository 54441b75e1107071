# SPDX-License-Identifier: Apache-2.0
"""The report of `vla inspect` as one HTML file: tables, histograms and pictures, nothing to load from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from numpy.typing import NDArray

from vla_ros.imaging import images

# For each episode that is shown: (its name and command, camera -> pictures (h, w, 3) RGB in the order of time).
Thumbnails = Sequence[tuple[str, Mapping[str, Sequence[NDArray]]]]

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 72em; color: #222; padding: 0 1em }
table { border-collapse: collapse; margin: .5em 0 1.5em } th, td { padding: .2em .8em .2em 0; text-align: left;
vertical-align: top; border-bottom: 1px solid #ddd } td.n { text-align: right; font-variant-numeric: tabular-nums }
.bad { color: #b00020 } img { margin: 0 4px 4px 0; border-radius: 3px }
figure { display: inline-block; margin: 0 1em 1em 0 }
figcaption { font-size: 12px; color: #555 } svg { background: #f6f6f6 }
"""


def page(tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[Any]]]], report: Mapping[str, Any],
         thumbnails: Thumbnails) -> str:  # fmt: skip
    """Return the page: `tables` are (title, column names, rows), `report` what `inspect` returned."""
    parts = ["<!doctype html><html lang='en'><meta charset='utf-8'><title>vla inspect</title>"]
    parts += [f"<style>{_STYLE}</style><h1>Recorded demonstrations</h1>"]
    for row in report["problems"]:
        parts.append(f"<p class='bad'>{escape(row['bag'])}: {escape(row['problem'])}</p>")
    parts += [f"<p class='bad'>{escape(text)}</p>" for text in report["damage"]]
    parts += [_table(*table) for table in tables if table[2]]
    if report["actions"]:
        parts.append("<h2>distribution of the actions</h2><p>Shaded: what normalisation keeps; beyond is clipped.</p>")
        parts += [_histogram(axis, figures) for axis, figures in report["actions"].items()]
    if thumbnails:
        parts.append("<h2>pictures</h2>")
    for title, cameras in thumbnails:
        parts.append(f"<h3>{escape(title)}</h3>")
        for camera, pictures in cameras.items():
            tags = "".join(_picture(picture) for picture in pictures)
            parts.append(f"<figure>{tags}<figcaption>{escape(camera)}</figcaption></figure>")
    return "\n".join(parts) + "\n</html>\n"


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td{_numeric(value)}>{escape(str(value))}</td>" for value in row) + "</tr>" for row in rows
    )
    return f"<h2>{escape(title)}</h2><table><tr>{head}</tr>{body}</table>"


def _numeric(value: Any) -> str:
    text = str(value).replace(".", "").replace("-", "").replace("%", "").strip()
    return " class='n'" if text.isdigit() or text == "" else ""


def _histogram(axis: str, figures: Mapping[str, Any]) -> str:
    """One axis as bars, 240 x 90; the range between `low` and `high` is shaded."""
    histogram = figures["histogram"]
    start, end, counts = histogram["from"], histogram["to"], histogram["counts"]
    span, tallest, width = max(end - start, 1e-12), max(*counts, 1), 240 / len(counts)

    def x(value: float) -> float:
        return min(max((value - start) / span, 0.0), 1.0) * 240

    low, high = x(figures["low"]), x(figures["high"])
    bars = "".join(
        f"<rect x='{index * width:.1f}' y='{80 - 80 * count / tallest:.1f}' width='{max(width - 0.5, 0.5):.1f}' "
        f"height='{80 * count / tallest:.1f}' fill='#2a6f97'/>"
        for index, count in enumerate(counts) if count
    )  # fmt: skip
    shade = f"<rect x='{low:.1f}' y='0' width='{max(high - low, 0):.1f}' height='80' fill='#dcebf3'/>"
    caption = f"{escape(axis)} [{escape(figures['unit'])}]: {start:.3f} to {end:.3f}"
    return f"<figure><svg width='240' height='80'>{shade}{bars}</svg><figcaption>{caption}</figcaption></figure>"


def _picture(rgb: NDArray) -> str:
    data = base64.b64encode(images.encode_jpeg(rgb, quality=80)).decode()
    return f"<img width='{rgb.shape[1]}' height='{rgb.shape[0]}' src='data:image/jpeg;base64,{data}' alt=''>"
