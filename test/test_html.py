# SPDX-License-Identifier: Apache-2.0
"""A page shows what it is given, escaped, and loads nothing."""

from __future__ import annotations

import re

from vla_ros import html


def test_all_text_is_escaped_and_nothing_is_loaded() -> None:
    evil = "<script>alert('1')</script>\" onload=\"x"
    text = html.page(
        evil,
        [
            html.heading(evil, 3), html.paragraph(evil, "bad"), html.table((evil,), [(evil,)]),
            html.images([b"\xff\xd8"], "jpeg", evil), html.histogram([1, 0, 3], (0.5, 2.0), evil),
        ],
    )  # fmt: skip
    assert "<script" not in text and 'onload="' not in text and text.count("&lt;script&gt;") >= 7
    assert "default-src 'none'" in text
    assert re.findall(r"""(?:src|href)=['"]([^'"]*)""", text) == ["data:image/jpeg;base64,/9g="]


def test_numbers_are_aligned_to_the_right() -> None:
    text = html.page("", [html.table(("a", "b", "c", "d"), [(7, "-12.5 %", "3/4", "x 3")])])
    cells = re.findall(r"<td( class=\"number\")?>", text)
    assert [bool(cell) for cell in cells] == [True, True, True, False]


def test_bars_are_as_high_as_their_counts() -> None:
    text = html.page("", [html.histogram([1, 0, 4], (0, 1), "")])
    bars = re.findall(r'<rect x="(\d)" y="([\d.]+)" width="0.9" height="([\d.]+)"', text)
    assert bars == [("0", "0.75", "0.25"), ("1", "1.0", "0.0"), ("2", "0.0", "1.0")]
