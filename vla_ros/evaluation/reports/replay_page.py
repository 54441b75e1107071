# SPDX-License-Identifier: Apache-2.0
"""The report of `vla replay` as a page: what was found, errors, and predicted beside demonstrated actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ros.contract import ARM_AXES, ARM_UNITS
from vla_ros.evaluation.reports import page

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def replay_parts(figures: Mapping[str, Any]) -> list[str]:
    """Return the parts of a page about what `vla replay` writes as JSON."""
    parts = _verdict(figures)
    parts += [
        page.heading("Error of the first action"),
        page.table(
            ("axis", "mean absolute error", "of never moving", "unit"),
            [
                (axis, f"{row['error']:.4f}", f"{row['error_of_never_moving']:.4f}", row["unit"])
                for axis, row in figures["axes"].items()
            ],
        ),
        page.heading("Gripper"),
        page.table(("demonstrated, predicted", "frames"), list(figures["gripper"].items())),
        page.heading("Latency"),
        page.table(("", "ms"), [(name, f"{ms:.1f}") for name, ms in figures["inference_ms"].items()]),
        page.heading("Error by step of the chunk"),
        page.plot(horizon_plot(figures["horizon"]), "1 is the error of never moving"),
    ]
    if figures["shown"]:
        parts.append(page.heading("Predicted and demonstrated actions"))
    for one in figures["shown"]:
        caption = f"{one['source']}: {one['command']}"
        parts.append(page.plot(actions_plot(one["demonstrated"], one["predicted"], figures["control_hz"]), caption))
    return parts


def _verdict(figures: Mapping[str, Any]) -> list[str]:
    rows = [(row["name"], row["detail"]) for row in [*figures["declared"], *figures["diagnosis"]["findings"]]]
    parts = []
    if rows:
        parts += [page.paragraph("Robot, recordings and checkpoint do not fit together:", "bad")]
        parts += [page.table(("mismatch", "what it is"), rows)]
    if figures["diagnosis"]["unexplained"]:
        parts.append(
            page.paragraph("The policy does something else than was demonstrated, for a reason not known here.", "bad")
        )
    if not parts:
        parts.append(page.paragraph("No mismatch between recordings and checkpoint was found.", "good"))
    cost, undone = figures["diagnosis"]["cost"], figures["diagnosis"]["cost_undone"]
    text = f"Disagreement {cost:.2f} (0 perfect, 1 no better than standing still)"
    return [*parts, page.paragraph(text + (f"; without the above {undone:.2f}" if rows else ""))]


def actions_plot(
    demonstrated: Sequence[Sequence[float]], predicted: Sequence[Sequence[float]], control_hz: float
) -> Figure:
    """All seven axes over time, (T, 7) each: demonstrated, and the first action of each chunk."""
    figure = _figure(9.0, 7.0)
    axes = figure.subplots(7, 1, sharex=True)
    done, planned = np.asarray(demonstrated), np.asarray(predicted)
    time_s = np.arange(len(done)) / control_hz
    labels = [*(f"{axis}\n[{unit}]" for axis, unit in zip(ARM_AXES, ARM_UNITS, strict=True)), "gripper"]
    for column, (axis, label) in enumerate(zip(axes, labels, strict=True)):
        axis.step(time_s, done[:, column], where="post", color="#444", label="demonstrated")
        axis.plot(time_s, planned[:, column], ".-", color="#c1440e", markersize=3, label="predicted")
        axis.set_ylabel(label, rotation=0, ha="right", va="center")
        axis.grid(alpha=0.3)
    axes[0].legend(loc="upper right", ncols=2, fontsize=8)
    axes[-1].set_xlabel("time [s]")
    figure.subplots_adjust(left=0.12, right=0.98, top=0.98, bottom=0.07, hspace=0.15)
    return figure


def horizon_plot(horizon: Sequence[Mapping[str, float]]) -> Figure:
    """Errors by step of the chunk."""
    figure = _figure(6.0, 2.6)
    axis = figure.subplots()
    for part in ("linear", "angular"):
        axis.plot([row["step"] for row in horizon], [row[part] for row in horizon], ".-", label=part)
    axis.set_xlabel("step of the chunk")
    axis.set_ylabel("error")
    axis.set_ylim(bottom=0)
    axis.legend()
    axis.grid(alpha=0.3)
    figure.tight_layout()
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # on use: `vla replay --help` is quick; without pyplot there is no state

    return Figure(figsize=(width, height))
