# SPDX-License-Identifier: Apache-2.0
"""The report of `vla evaluate` as parts of a page: rates by task or by length of the chain, delays, films."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_ros.evaluation.reports import page
from vla_ros.runtime.execution.executors import EXECUTORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Films shown of failures and of successes: what is to be learned from, and a few to see that it works.
SHOWN_FAILURES, SHOWN_SUCCESSES = 12, 6


def evaluation_parts(report: Mapping[str, Any], films: Path | None = None) -> list[str]:
    """Return the parts of the page; `report` is what `vla evaluate` writes as JSON, `films` the folder of its films."""
    parts = _chains(report) if "success_at" in report else _tasks(report)
    if "conditions" in report:
        parts += _conditions(report["conditions"])
    if films is not None and films.is_dir():
        parts += _films(films)
    settings = [(key, value) for key, value in report["settings"].items() if value is not None]
    return [*parts, page.heading("Settings"), page.table(("", ""), settings)]


def _tasks(report: Mapping[str, Any]) -> list[str]:
    rows = [*report["tasks"].items(), ("all", report["total"])]
    return [
        page.heading("Success by task"),
        page.table(
            ("task", "successes", "rate", "95 % interval", "mean time [s]"),
            [
                (
                    task,
                    f"{row['successes']}/{row['rollouts']}",
                    f"{row['success_rate']:.0%}",
                    _interval(row["interval"]),
                    "" if row["mean_time_s"] is None else f"{row['mean_time_s']:.1f}",
                )
                for task, row in rows
            ],
        ),
        page.plot(
            rates_plot([(task, row["success_rate"], row["interval"]) for task, row in rows]),
            "Success rates with their 95 % intervals",
        ),
    ]


def _chains(report: Mapping[str, Any]) -> list[str]:
    low, high = report["average_length_interval"]
    return [
        page.heading("Chains of tasks"),
        page.paragraph(
            f"Average length {report['average_length']:.2f} ({low:.2f} to {high:.2f}) over {report['chains']} chains."
        ),
        page.table(
            ("subtasks in a row", "chains", "rate", "95 % interval"),
            [
                (k, f"{row['successes']}/{row['trials']}", f"{row['rate']:.1%}", _interval(row["interval"]))
                for k, row in report["success_at"].items()
            ],
        ),
        page.plot(
            rates_plot([(f"{k} in a row", row["rate"], row["interval"]) for k, row in report["success_at"].items()]),
            "Chains with at least so many subtasks done in a row, with 95 % intervals",
        ),
        page.heading("Subtasks"),
        page.table(
            ("subtask", "done of reached", "rate", "mean steps"),
            [
                (
                    task,
                    f"{row['successes']}/{row['trials']}",
                    f"{row['rate']:.0%}",
                    "" if row["mean_steps"] is None else f"{row['mean_steps']:.0f}",
                )
                for task, row in report["tasks"].items()
            ],
        ),
    ]


def _conditions(conditions: Sequence[Mapping[str, Any]]) -> list[str]:
    parts = [
        page.heading("Delays and executors"),
        page.table(
            ("executor", "added delay [ms]", "ticks", "successes", "rate", "95 % interval"),
            [
                (
                    row["executor"],
                    "" if row["delay_ms"] is None else f"{row['delay_ms']:g}",
                    row["delay_ticks"],
                    f"{row['successes']}/{row['rollouts']}",
                    f"{row['success_rate']:.0%}",
                    _interval(row["interval"]),
                )
                for row in conditions
            ],
        ),
    ]
    if len({row["delay_ms"] for row in conditions}) > 1:
        parts.append(page.plot(delays_plot(conditions), "Success against the delay added to a chunk's way"))
    return parts


def _films(films: Path) -> list[str]:
    parts = [page.heading("Films")]
    for word, count in (("failure", SHOWN_FAILURES), ("success", SHOWN_SUCCESSES)):
        found = sorted(films.glob(f"*-{word}.webp"))
        for index in sorted({round(i * (len(found) - 1) / max(1, count - 1)) for i in range(count)} if found else ()):
            parts.append(page.image(found[index].read_bytes(), "webp", found[index].stem))
    return parts


def rates_plot(rows: Sequence[tuple[str, float, Sequence[float]]]) -> Figure:
    """Rates (name, rate, interval) as bars with their intervals."""
    figure = _figure(8.0, 0.9 + 0.28 * len(rows))
    axis = figure.subplots()
    names, rates = [name for name, _, _ in rows], [rate for _, rate, _ in rows]
    around = [[rate - low for _, rate, (low, _) in rows], [high - rate for _, rate, (_, high) in rows]]
    axis.barh(names, rates, xerr=around, color="#2a6f97", ecolor="#888", height=0.6)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.grid(alpha=0.3, axis="x")
    figure.tight_layout()
    return figure


def delays_plot(conditions: Sequence[Mapping[str, Any]]) -> Figure:
    """Success against added delay, a line for each executor."""
    figure = _figure(7.0, 3.2)
    draw_delays(figure.subplots(), conditions)
    figure.tight_layout()
    return figure


def draw_delays(axis: Axes, conditions: Sequence[Mapping[str, Any]]) -> None:
    """Draw that on `axis`; points stand a little beside each other, so that no interval hides another."""
    executors = list(dict.fromkeys(row["executor"] for row in conditions))
    apart_ms = max(row["delay_ms"] or 0 for row in conditions) / 100
    for index, executor in enumerate(executors):
        rows = [row for row in conditions if row["executor"] == executor and row["delay_ms"] is not None]
        aside_ms = apart_ms * (index - (len(executors) - 1) / 2)
        delays, rates = [row["delay_ms"] + aside_ms for row in rows], [row["success_rate"] for row in rows]
        around = [[row["success_rate"] - row["interval"][0] for row in rows],
                  [row["interval"][1] - row["success_rate"] for row in rows]]  # fmt: skip
        colour = f"C{list(EXECUTORS).index(executor)}"  # the same in every plot
        axis.errorbar(delays, rates, yerr=around, marker="o", capsize=3, label=executor, color=colour)
    axis.set_xlabel("added delay [ms]")
    axis.set_ylabel("success rate")
    axis.set_ylim(0, 1.02)
    axis.legend()
    axis.grid(alpha=0.3)


def _interval(interval: Sequence[float]) -> str:
    low, high = interval
    return f"{low:.0%} to {high:.0%}"


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))
