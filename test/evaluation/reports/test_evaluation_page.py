# SPDX-License-Identifier: Apache-2.0
"""Reports of evaluations: self-contained, escaped, with videos."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np

from vla_ros import html
from vla_ros.evaluation.reports.evaluation_page import draw_delays, evaluation_blocks, new_figure
from vla_ros.evaluation.reports.video import RolloutVideo

REPORT = {
    "tasks": {
        "open_<drawer>": {
            "successes": 1,
            "rollouts": 2,
            "success_rate": 0.5,
            "interval": (0.1, 0.9),
            "mean_time_s": 2.0,
        }
    },
    "total": {"successes": 1, "rollouts": 2, "success_rate": 0.5, "interval": (0.1, 0.9), "mean_time_s": None},
    "inference_ms": {"p50": 1.0, "p95": None},
    "wall_s": 3.0,
    "settings": {"checkpoint": "x", "blank": None},
}


class Sources(HTMLParser):
    """Collects everything that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]
        assert tag not in ("script", "link", "iframe", "object")


def test_a_page_is_self_contained_and_escaped(tmp_path) -> None:
    video = RolloutVideo(("static", "wrist"))
    for tick in range(3):
        video.on_frame(tick, {name: np.full((20, 30, 3), 60 * tick, np.uint8) for name in ("static", "wrist")})
    video.save(tmp_path / "open_drawer-7-failure.webp", 10.0)
    text = html.page("a < b", evaluation_blocks(REPORT, tmp_path))
    sources = Sources(text).found
    assert len(sources) == 2 and all(source.startswith("data:image/") for source in sources)
    assert "default-src 'none'" in text and "url(" not in text
    assert "a &lt; b" in text and "open_&lt;drawer&gt;" in text and "<drawer>" not in text
    assert re.search(r"data:image/webp;base64,\w+", text) and "open_drawer-7-failure" in text


def test_a_report_of_version_0_1_with_an_executor_that_is_gone_is_still_plotted() -> None:
    rows = [
        {"executor": executor, "delay_ms": delay_ms, "success_rate": 0.5, "interval": (0.1, 0.9)}
        for executor in ("path_following", "delay_aware")
        for delay_ms in (0, 200)
    ]
    axis = new_figure(7.0, 3.2).subplots()
    draw_delays(axis, rows)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["path_following", "delay_aware"]


def test_a_video_has_every_frame_of_every_camera_and_lingers_on_the_last(tmp_path) -> None:
    from PIL import Image

    video = RolloutVideo(("static", "wrist"))
    for tick in range(4):
        video.on_frame(
            tick, {"static": np.full((8, 8, 3), 50 * tick, np.uint8), "wrist": np.full((8, 8, 3), 9, np.uint8)}
        )
    video.save(tmp_path / "videos" / "one.webp", 10.0)
    with Image.open(tmp_path / "videos" / "one.webp") as written:
        assert written.n_frames == 4 and written.size == (256, 128)
        written.seek(3)
        assert abs(np.asarray(written.convert("RGB"))[64, 64].astype(int) - 150).max() < 8
        assert written.info["duration"] >= 1000
