# SPDX-License-Identifier: Apache-2.0
"""The report of `vla replay`: mismatches, errors, and predicted against demonstrated actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ros import html
from vla_ros.contract import ARM_AXES, ARM_UNITS
from vla_ros.evaluation.reports.evaluation_page import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def replay_blocks(results: Mapping[str, Any]) -> list[html.Block]:
    """Return the blocks of a page on the JSON results of `vla replay`."""
    blocks = _verdict(results)
    blocks += [
        html.heading("Error of the first action"),
        html.table(
            ("axis", "mean absolute error", "of never moving", "unit"),
            [
                (axis, f"{row['error']:.4f}", f"{row['error_of_never_moving']:.4f}", row["unit"])
                for axis, row in results["axes"].items()
            ],
        ),
        html.heading("Gripper"),
        html.table(("demonstrated, predicted", "frames"), list(results["gripper"].items())),
        html.heading("Inference time"),
        html.table(("", "ms"), [(name, f"{ms:.1f}") for name, ms in results["inference_ms"].items()]),
        html.heading("Error by step of the chunk"),
        html.plot(horizon_plot(results["horizon"]), "relative to never moving"),
    ]
    if results["shown"]:
        blocks.append(html.heading("Predicted and demonstrated actions"))
    for one in results["shown"]:
        blocks.append(html.plot(actions_plot(one, results["control_hz"]), f"{one['source']}: {one['command']}"))
    return blocks


def _verdict(results: Mapping[str, Any]) -> list[html.Block]:
    diagnosis = results["diagnosis"]
    rows = [(row["name"], row["detail"]) for row in [*results["declared"], *diagnosis["findings"]]]
    blocks = []
    if rows:
        blocks += [html.paragraph("The robot, the recordings and the checkpoint do not match:", "bad")]
        blocks += [html.table(("mismatch", "detail"), rows)]
    if diagnosis["unexplained"]:
        blocks.append(html.paragraph("The policy disagrees with the demonstrations for an unknown reason.", "bad"))
    if not blocks:
        blocks.append(html.paragraph("No mismatch between the recordings and the checkpoint.", "good"))
    text = f"Disagreement {diagnosis['cost']:.2f} (0 is perfect, 1 no better than standing still)"
    undone = f"; {diagnosis['cost_undone']:.2f} with the mismatches undone" if rows else ""
    return [*blocks, html.paragraph(text + undone)]


def actions_plot(example: Mapping[str, Any], control_hz: float) -> Figure:
    """Plot all seven axes over time: demonstrated actions (T, 7) and the first action of each chunk (T, 7)."""
    figure = new_figure(9.0, 7.0)
    axes = figure.subplots(7, 1, sharex=True)
    done, planned = np.asarray(example["demonstrated"]), np.asarray(example["predicted"])
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
    """Plot errors by step of the chunk."""
    figure = new_figure(6.0, 2.6)
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
