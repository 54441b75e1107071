# SPDX-License-Identifier: Apache-2.0
"""The report of `vla inspect` as tables, for the terminal and for HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Rows = list[tuple[Any, ...]]

_MOTION = {
    "idle_fraction": "frames without motion",
    "beyond_limits_fraction": "actions beyond the robot's limits",
    "spiky_fraction": "changes of action beyond the robot's acceleration",
    "gripper_between_fraction": "gripper neither open nor closed",
    "gripper_switches_per_episode": "gripper switches an episode",
}


def of(report: dict[str, Any]) -> list[tuple[str, Sequence[str], Rows]]:
    """Return (title, column names, rows) of each table of a report of `Inspection`."""
    return [
        ("topics", ("topic", "type", "messages", "rate [Hz]", "gaps", "longest [s]"), _topics(report)),
        (
            "streams",
            ("stream", "delay [ms]", "95 % [ms]", "out of order", "repeated", "lag behind the arm [ms]", "latency_s"),
            _streams(report),
        ),
        ("skew between cameras", ("median [ms]", "95 % [ms]", "max [ms]"), _skew(report)),
        (
            "episodes",
            ("episode", "from", "task", "command", "outcome", "by hand", "frames", "duration [s]"),
            _episodes(report),
        ),
        ("commands", ("command", "frames"), list(report["language"].items())),
        ("actions", ("axis", "unit", "min", "low", "mean", "high", "max"), _actions(report)),
        ("motion", ("what", "how much"), _motion(report)),
        ("cameras", ("camera", "frames", "dark", "of one colour", "as the one before"), _cameras(report)),
        ("left out", ("why", "frames"), [(row["why"], row["count"]) for row in report["dropped"]]),
    ]


def show(report: dict[str, Any], console: Console) -> None:
    """Print a report."""
    for title, header, rows in of(report):
        _print(console, title, header, rows)
    usable = Counter(row["outcome"] for row in report["episodes"] if row["frames"])
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in usable.most_common()) or "none"
    console.print(f"{report['frames']} frames in {sum(usable.values())} episodes ({outcomes})")
    for text in advice(report):
        console.print(f"[bold]note[/] {escape(text)}", soft_wrap=True)
    for text in report["damage"]:
        console.print(f"[bold red]damage[/] {escape(text)}", soft_wrap=True)
    for row in report["problems"]:
        console.print(f"[bold red]problem[/] {escape(row['bag'])}: {escape(row['problem'])}", soft_wrap=True)


def advice(report: dict[str, Any]) -> list[str]:
    """What of the figures a person should look at, in sentences."""
    texts = []
    for name, row in report["streams"].items():
        lag_s = row["lag_behind_ee_pose_s"]
        if lag_s is not None and abs(lag_s) > 0.03:
            texts.append(
                f"{name} shows motion {1e3 * lag_s:.0f} ms after ee_pose does: latency_s: "
                f"{row['suggested_latency_s']:.3f} in the robot's file would account for it"
            )
    for name, row in report["cameras"].items():
        for what, why in (("dark", "is dark"), ("flat", "shows one colour"), ("repeated", "shows the same as before")):
            if row.get("frames") and row[what] > 0.5 * row["frames"]:
                texts.append(f"camera {name} {why} in {row[what]} of {row['frames']} frames: is it dead?")
    idle, fast = (report["motion"].get(key, 0.0) for key in ("idle_fraction", "beyond_limits_fraction"))
    texts += [f"transforms, {fault}" for fault in report["transforms"]]
    if idle > 0.2:
        texts.append(f"{idle:.0%} of the frames have no motion: see filters.idle of the robot's file")
    if fast > 0.01:
        texts.append(f"{fast:.1%} of the actions are beyond the limits of the robot's file")
    return texts


def _topics(report: dict[str, Any]) -> Rows:
    return [
        (name, row["type"], row["messages"], _number(row["rate_hz"], 1), row["gaps"], _number(row["longest_gap_s"], 2))
        for name, row in report["topics"].items()
    ]


def _streams(report: dict[str, Any]) -> Rows:
    return [
        (
            name, _milliseconds(row["delay_s"]), _milliseconds(row["delay_95_s"]), row["out_of_order"],
            row["repeated_stamps"], _milliseconds(row["lag_behind_ee_pose_s"]), f"{row['latency_s']:.3f}",
        )
        for name, row in report["streams"].items()
    ]  # fmt: skip


def _skew(report: dict[str, Any]) -> Rows:
    skew = report["skew_s"]
    return [tuple(_milliseconds(skew[key]) for key in ("median", "q95", "max"))] if skew else []


def _episodes(report: dict[str, Any]) -> Rows:
    return [
        (
            row["source"], row["from"], row["task"], row["command"], row["outcome"],
            "" if row["by_hand"] is None else f"{row['by_hand']:.0%}", row["frames"], f"{row['duration_s']:.1f}",
        )
        for row in report["episodes"]
    ]  # fmt: skip


def _actions(report: dict[str, Any]) -> Rows:
    return [
        (axis, row["unit"], *(f"{row[key]:.3f}" for key in ("min", "low", "mean", "high", "max")))
        for axis, row in report["actions"].items()
    ]


def _motion(report: dict[str, Any]) -> Rows:
    return [
        (text, f"{report['motion'][key]:.1%}" if key.endswith("fraction") else f"{report['motion'][key]:.1f}")
        for key, text in _MOTION.items() if key in report["motion"]
    ]  # fmt: skip


def _cameras(report: dict[str, Any]) -> Rows:
    return [
        (name, row["frames"], row["dark"], row["flat"], row["repeated"])
        for name, row in report["cameras"].items() if row
    ]  # fmt: skip


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{1e3 * value:.1f}"


def _print(console: Console, title: str, header: Sequence[str], rows: Rows) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    for name, value in zip(header, rows[0], strict=True):
        numeric = isinstance(value, int) or name.endswith("]") or name in ("min", "low", "mean", "high", "max")
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row))
    console.print(table)
