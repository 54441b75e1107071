# SPDX-License-Identifier: Apache-2.0
"""The report of `vla inspect`, plain data, as tables in the terminal and as an HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vla_ros import html
from vla_ros.datasets.bags.episodes.cutting import clock_offset
from vla_ros.imaging import images

Report = Mapping[str, Any]
Rows = list[tuple[Any, ...]]
# For each episode shown: its name and command, and camera -> images (h, w, 3) RGB in order of time.
Thumbnails = Sequence[tuple[str, Mapping[str, Sequence[NDArray[np.uint8]]]]]

_MOTION = {
    "idle_fraction": "frames without motion",
    "beyond_limits_fraction": "actions beyond the robot's limits",
    "spiky_fraction": "action changes beyond the robot's acceleration limits",
    "gripper_between_fraction": "gripper neither open nor closed",
    "gripper_switches_per_episode": "gripper switches per episode",
}
LISTED = 100  # rows of a table in the terminal
_BEYOND = 0.2  # of a gripper's range: values further outside are in another unit
_RAW = ("min", "max", "closed", "open")
_CAMERA_FAULTS = {"dark": "is dark", "flat": "shows a single colour", "repeated": "repeats the previous image"}


def tables(report: Report) -> Iterator[tuple[str, Sequence[str], Rows]]:
    """Yield (title, column names, rows) of each table of a report that has rows."""
    skew, motion = report["skew_s"], report["motion"]
    found: list[tuple[str, Sequence[str], Rows]] = [
        ("topics", ("topic", "type", "messages", "rate [Hz]", "gaps", "longest [s]"), _topics(report)),
        (
            "streams",
            ("stream", "delay [ms]", "95 % [ms]", "out of order", "repeated", "lag behind the arm [ms]", "latency_s"),
            _streams(report),
        ),
        (
            "skew between cameras",
            ("median [ms]", "95 % [ms]", "max [ms]"),
            [tuple(_milliseconds(skew[key]) for key in ("median", "q95", "max"))] if skew else [],
        ),
        (
            "episodes",
            ("episode", "from", "task", "command", "outcome", "by hand", "frames", "duration [s]"),
            _episodes(report),
        ),
        (
            "commanded against measured motion",
            ("bag", "velocities", "axes that moved", "correlation", "measured / commanded", "delay [ms]"),
            _agreement(report),
        ),
        (
            "gripper, raw values",
            ("stream", "lowest", "highest", "closed is", "open is"),
            [(name, *(f"{row[key]:.4g}" for key in _RAW)) for name, row in report["grippers"].items()],
        ),
        ("commands", ("command", "frames"), list(report["language"].items())),
        ("actions", ("axis", "unit", "min", "low", "mean", "high", "max"), _actions(report)),
        (
            "motion",
            ("property", "value"),
            [
                (text, f"{motion[key]:.1%}" if key.endswith("fraction") else f"{motion[key]:.1f}")
                for key, text in _MOTION.items()
                if key in motion
            ],
        ),
        (
            "cameras",
            ("camera", "frames", "dark", "single colour", "same as before"),
            [
                (name, *(row[key] for key in ("frames", *_CAMERA_FAULTS)))
                for name, row in report["cameras"].items()
                if row
            ],
        ),
        ("left out", ("reason", "frames"), [(row["why"], row["count"]) for row in report["dropped"]]),
    ]
    yield from (table for table in found if table[2])


def show(report: Report, console: Console) -> None:
    """Print a report."""
    console.print(escape(heading(report)), soft_wrap=True)
    for title, header, rows in tables(report):
        _print(console, title, header, rows)
    usable = Counter(row["outcome"] for row in report["episodes"] if row["frames"])
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in usable.most_common()) or "none"
    console.print(f"{report['frames']} frames in {sum(usable.values())} episodes ({outcomes})")
    for text in [*report["source"]["notes"], *advice(report)]:
        console.print(f"[bold]note[/] {escape(text)}", soft_wrap=True)
    for text in report["damage"]:
        console.print(f"[bold red]damage[/] {escape(text)}", soft_wrap=True)
    for row in report["problems"]:
        console.print(f"[bold red]problem[/] {escape(_problem(row))}", soft_wrap=True)
        if row.get("fix"):
            console.print(f"  to fix it: {escape(row['fix'])}", soft_wrap=True)
    if report["source"].get("train"):
        console.print(f"to train on it: {escape(report['source']['train'])}", soft_wrap=True)


def heading(report: Report) -> str:
    """Return what was inspected, and by which robot file or layout it was read."""
    source = report["source"]
    rates = [f"{source[key]:g} Hz" for key in ("rate_hz", "control_hz") if key in source]
    recorded = f" at {rates[0]}" if len(rates) > 1 else ""
    sampled = f", sampled at {rates[-1]}" if rates else ""
    inspected, count = source.get("shards", (0, 0))
    part = f"; {inspected} of {count} shards, --all for every one" if inspected < count else ""
    return f"{', '.join(source['paths'])}: {source['read_as']}{recorded}{sampled}{part}"


def page(inspected: Sequence[tuple[Report, Thumbnails]]) -> str:
    """Return the reports as an HTML page with histograms and thumbnails."""
    return html.page("Recorded demonstrations", [block for each in inspected for block in _blocks(*each)])


def _blocks(report: Report, thumbnails: Thumbnails) -> list[html.Block]:
    blocks = [html.paragraph(heading(report))]
    blocks += [html.paragraph(text) for text in report["source"]["notes"]]
    blocks += [html.paragraph(_problem(row), "bad") for row in report["problems"]]
    blocks += [html.paragraph(text, "bad") for text in report["damage"]]
    for title, header, rows in tables(report):
        blocks += [html.heading(title), html.table(header, rows)]
    if report["actions"]:
        blocks += [html.heading("distribution of the actions")]
        blocks += [html.paragraph("Shaded: the range that normalisation keeps; values beyond it are clipped.")]
        blocks += [_histogram(axis, row) for axis, row in report["actions"].items()]
    if thumbnails:
        blocks.append(html.heading("images"))
    for title, cameras in thumbnails:
        blocks.append(html.heading(title, level=3))
        for camera, shown in cameras.items():
            blocks.append(html.images([images.encode_jpeg(rgb, quality=80) for rgb in shown], "jpeg", camera))
    return blocks


def advice(report: Report) -> list[str]:
    """Return what a person should look into, in sentences."""
    texts = []
    for name, row in report["streams"].items():
        if row["stamp"] == "header" and (clock := clock_offset(row["delay_s"] or 0.0, f"{row['key']}.stamp: receive")):
            texts.append(f"{name}: {clock}")
        lag_s = row["lag_behind_ee_pose_s"]
        if lag_s is not None and abs(lag_s) > 0.03:
            texts.append(
                f"{name} shows motion {_estimate(lag_s, row['lag_error_s'])} ms after ee_pose; set latency_s: "
                f"{row['suggested_latency_s']:.3f} in the robot file to account for it"
            )
    for name, row in report["cameras"].items():
        for key, text in _CAMERA_FAULTS.items():
            if row.get("frames") and row[key] > 0.5 * row["frames"]:
                texts.append(f"camera {name} {text} in {row[key]} of {row['frames']} frames: is it working?")
    for name, row in report["grippers"].items():
        ends = sorted((row["closed"], row["open"]))
        beyond = _BEYOND * (ends[1] - ends[0])
        if row["min"] < ends[0] - beyond or row["max"] > ends[1] + beyond:
            texts.append(
                f"{name} is between {row['min']:.4g} and {row['max']:.4g}, but closed is {row['closed']:.4g} and open "
                f"{row['open']:.4g}; correct closed and open of {name} in the robot file (m, mm or rad?)"
            )
    texts += report["doubts"]
    texts += [f"transforms, {fault}" for fault in report["transforms"]]
    idle, fast = (report["motion"].get(key, 0.0) for key in ("idle_fraction", "beyond_limits_fraction"))
    if idle > 0.2:
        texts.append(f"{idle:.0%} of the frames have no motion; filters.idle in the robot file leaves out pauses")
    if fast > 0.01:
        texts.append(f"{fast:.1%} of the actions exceed the limits in the robot file")
    return texts


def _problem(row: Mapping[str, str]) -> str:
    """Return what is wrong and where, which is said once."""
    where, text = row["bag"], row["problem"]
    return text if text.startswith(where) else f"{where}: {text}"


def _topics(report: Report) -> Rows:
    return [
        (name, row["type"], row["messages"], _number(row["rate_hz"], 1), row["gaps"], _number(row["longest_gap_s"], 2))
        for name, row in report["topics"].items()
    ]


def _streams(report: Report) -> Rows:
    return [
        (
            name,
            *(_milliseconds(row[key]) for key in ("delay_s", "delay_95_s")),
            *(row[key] for key in ("out_of_order", "repeated_stamps")),
            _estimate(row["lag_behind_ee_pose_s"], row["lag_error_s"]) if name in report["cameras"] else "-",
            f"{row['latency_s']:.3f}",
        )
        for name, row in report["streams"].items()
    ]


def _agreement(report: Report) -> Rows:
    return [
        (
            *(row[key] for key in ("bag", "velocities", "axes")),
            *(_number(row[key], 2) for key in ("correlation", "gain")),
            _estimate(row["delay_s"], row["delay_error_s"]),
        )
        for row in report["agreement"]
    ]


def _estimate(seconds: float | None, error_s: float | None) -> str:
    return "not identifiable" if seconds is None or error_s is None else f"{1e3 * seconds:.0f} +- {1e3 * error_s:.0f}"


def _episodes(report: Report) -> Rows:
    return [
        (
            *(row[key] for key in ("source", "from", "task", "command", "outcome")),
            "" if row["by_hand"] is None else f"{row['by_hand']:.0%}",
            row["frames"],
            f"{row['duration_s']:.1f}",
        )
        for row in report["episodes"]
    ]


def _actions(report: Report) -> Rows:
    return [
        (axis, row["unit"], *(f"{row[key]:.3f}" for key in ("min", "low", "mean", "high", "max")))
        for axis, row in report["actions"].items()
    ]


def _histogram(axis: str, row: Mapping[str, Any]) -> html.Block:
    counts, start, end = (row["histogram"][key] for key in ("counts", "from", "to"))
    bins = np.interp([row["low"], row["high"]], [start, max(end, start + 1e-12)], [0, len(counts)]).tolist()
    return html.histogram(counts, (bins[0], bins[1]), f"{axis} [{row['unit']}]: {start:.3f} to {end:.3f}")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{1e3 * value:.1f}"


def _print(console: Console, title: str, header: Sequence[str], rows: Rows) -> None:
    table = Table(title=title, title_justify="left")
    for name, value in zip(header, rows[0], strict=True):
        numeric = isinstance(value, int) or name.endswith("]") or name in ("min", "low", "mean", "high", "max")
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows[:LISTED]:
        table.add_row(*(escape(str(value)) for value in row))
    console.print(table)
    if len(rows) > LISTED:
        console.print(f"and {len(rows) - LISTED} more, which --json and --html list")
