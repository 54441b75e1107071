# SPDX-License-Identifier: Apache-2.0
"""The report of `vla evaluate`: success by task or by chain length, against delay, and videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vla_ros import html
from vla_ros.runtime.execution.executors import EXECUTORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Failures are what to learn from; a few successes show that it works.
SHOWN_FAILURES, SHOWN_SUCCESSES = 12, 6

Table = tuple[tuple[str, ...], Sequence[tuple[Any, ...]]]  # columns and rows
TASKS, CHAINS, CONDITIONS = "Success by task", "Chains of tasks", "Delays and executors"


def summary(results: Mapping[str, Any]) -> str:
    """Summarize the JSON results of `vla evaluate` in a line."""
    if "success_at" in results:
        low, high = results["average_length_interval"]
        text = f"average length {results['average_length']:.2f} ({low:.2f} to {high:.2f})"
    else:
        inference = results["inference_ms"]
        text = "inference " + ", ".join(f"{q} {_format(inference[q], '.1f', '-')} ms" for q in ("p50", "p95"))
    return f"{text}; {results['wall_s']:.0f} s"


def tables(results: Mapping[str, Any]) -> dict[str, Table]:
    """Return the tables of the JSON results of `vla evaluate`: by heading."""
    if "success_at" in results:
        lengths = [
            (k, _count(row, "trials"), f"{row['rate']:.1%}", percent(row["interval"]))
            for k, row in results["success_at"].items()
        ]
        subtasks = [
            (task, _count(row, "trials"), f"{row['rate']:.0%}", _format(row["mean_steps"], ".0f"))
            for task, row in results["tasks"].items()
        ]
        return {
            CHAINS: (("subtasks in a row", "chains", "rate", "95 % interval"), lengths),
            "Subtasks": (("subtask", "done / attempted", "rate", "mean steps"), subtasks),
        }
    tasks = [
        (task, *_rate(row), _format(row["mean_time_s"], ".1f"))
        for task, row in [*results["tasks"].items(), ("all", results["total"])]
    ]
    found: dict[str, Table] = {TASKS: (("task", "successes", "rate", "95 % interval", "mean time [s]"), tasks)}
    if "conditions" in results:
        rows = [
            (row["executor"], _format(row["delay_ms"], "g"), row["delay_ticks"], *_rate(row))
            for row in results["conditions"]
        ]
        columns = ("executor", "added delay [ms]", "ticks", "successes", "rate", "95 % interval")
        found[CONDITIONS] = (columns, rows)
    return found


def evaluation_blocks(results: Mapping[str, Any], videos: Path | None = None) -> list[html.Block]:
    """Return the blocks of a page on the JSON results of `vla evaluate`, with videos from a folder."""
    blocks = [html.paragraph(summary(results))]
    plots = _plots(results)
    for heading, (columns, rows) in tables(results).items():
        blocks += [html.heading(heading), html.table(columns, rows), *plots.get(heading, ())]
    if videos is not None and videos.is_dir():
        blocks += _videos(videos)
    settings = [(key, value) for key, value in results["settings"].items() if value is not None]
    return [*blocks, html.heading("Settings"), html.table(("", ""), settings)]


def _plots(results: Mapping[str, Any]) -> dict[str, list[html.Block]]:
    if "success_at" in results:
        rates = [(f"{k} in a row", row["rate"], row["interval"]) for k, row in results["success_at"].items()]
        caption = "Chains with at least k subtasks done in a row, with 95 % intervals"
        return {CHAINS: [html.plot(rates_plot(rates), caption)]}
    tasks = [*results["tasks"].items(), ("all", results["total"])]
    rates = [(task, row["success_rate"], row["interval"]) for task, row in tasks]
    plots = {TASKS: [html.plot(rates_plot(rates), "Success rates with 95 % intervals")]}
    conditions = results.get("conditions", ())
    if len({row["delay_ms"] for row in conditions}) > 1:
        figure = new_figure(7.0, 3.2)
        draw_delays(figure.subplots(), conditions)
        figure.tight_layout()
        plots[CONDITIONS] = [html.plot(figure, "Success against added delay")]
    return plots


def _videos(folder: Path) -> list[html.Block]:
    blocks = [html.heading("Videos")]
    for outcome, count in (("failure", SHOWN_FAILURES), ("success", SHOWN_SUCCESSES)):
        found = sorted(folder.glob(f"*-{outcome}.webp"))
        for index in sorted({round(i * (len(found) - 1) / max(1, count - 1)) for i in range(count)} if found else ()):
            blocks.append(html.images([found[index].read_bytes()], "webp", found[index].stem))
    return blocks


def rates_plot(rows: Sequence[tuple[str, float, Sequence[float]]]) -> Figure:
    """Plot (name, rate, interval) as bars with error bars."""
    figure = new_figure(8.0, 0.9 + 0.28 * len(rows))
    axis = figure.subplots()
    names, rates = [name for name, _, _ in rows], [rate for _, rate, _ in rows]
    axis.barh(names, rates, xerr=_error_bars(rates, [interval for *_, interval in rows]), color="#2a6f97",
              ecolor="#888", height=0.6)  # fmt: skip
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.grid(alpha=0.3, axis="x")
    figure.tight_layout()
    return figure


def draw_delays(axis: Axes, conditions: Sequence[Mapping[str, Any]]) -> None:
    """Draw success against added delay, a line per executor, shifted slightly so that error bars stay visible."""
    executors = list(dict.fromkeys(row["executor"] for row in conditions))
    known = list(EXECUTORS)
    step_ms = max(row["delay_ms"] or 0 for row in conditions) / 100
    for index, executor in enumerate(executors):
        rows = [row for row in conditions if row["executor"] == executor and row["delay_ms"] is not None]
        shift_ms = step_ms * (index - (len(executors) - 1) / 2)
        delays, rates = [row["delay_ms"] + shift_ms for row in rows], [row["success_rate"] for row in rows]
        bars = _error_bars(rates, [row["interval"] for row in rows])
        # The same in every plot; old reports may have an executor that is gone.
        colour = f"C{known.index(executor) if executor in known else len(known)}"
        axis.errorbar(delays, rates, yerr=bars, marker="o", capsize=3, label=executor, color=colour)
    axis.set_xlabel("added delay [ms]")
    axis.set_ylabel("success rate")
    axis.set_ylim(0, 1.02)
    axis.legend()
    axis.grid(alpha=0.3)


def percent(interval: Sequence[float]) -> str:
    """Format an interval of rates."""
    return f"{interval[0]:.0%} to {interval[1]:.0%}"


def _error_bars(rates: Sequence[float], intervals: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    return np.asarray(np.abs(np.transpose(intervals) - np.asarray(rates)))


def _count(row: Mapping[str, Any], trials: str) -> str:
    return f"{row['successes']}/{row[trials]}"


def _rate(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return _count(row, "rollouts"), f"{row['success_rate']:.0%}", percent(row["interval"])


def _format(value: float | None, form: str, missing: str = "") -> str:
    return missing if value is None else format(value, form)


def new_figure(width: float, height: float) -> Figure:
    """Return a figure [inches] outside pyplot, which would keep a global state."""
    from matplotlib.figure import Figure  # slow

    return Figure(figsize=(width, height))
