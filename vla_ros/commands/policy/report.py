# SPDX-License-Identifier: Apache-2.0
"""Put all that is known of a training run into one HTML file that opens offline.

vla report runs/finetune                                writes runs/finetune/report.html
vla report runs/finetune --output finetune.html

It shows the curves, the demonstrations, the contract, and what lies in the run folder of evaluations and replays:

vla evaluate runs/finetune/checkpoint --output runs/finetune/evaluation --videos
vla replay runs/finetune/checkpoint bags/novel --json runs/finetune/replay.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla_ros.contract import PolicyContract
from vla_ros.errors import UserError
from vla_ros.evaluation.closed_loop.evaluation import VIDEOS
from vla_ros.evaluation.reports import page
from vla_ros.evaluation.reports.evaluation_page import evaluation_parts
from vla_ros.evaluation.reports.replay_page import replay_parts
from vla_ros.policy.checkpoint import CONTRACT
from vla_ros.train.callbacks import draw_curves
from vla_ros.train.data_summary import DATA_SUMMARY

REPORT = "report.html"


class ReportError(UserError):
    """A folder that there is nothing to report of."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vla report``."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a training run, as `vla fit` writes it")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"where to write it (default: RUN/{REPORT})")


def run(args: argparse.Namespace) -> int:
    """Run ``vla report``."""
    output = args.output or args.run / REPORT
    page.write(output, report(args.run))
    print(output)
    return 0


def report(folder: Path) -> str:
    """Return the page about a run folder; what the folder lacks is left out.

    Raises:
        ReportError: there is no such folder, nothing of a run is in it, or a file in it is damaged.
    """
    if not folder.is_dir():
        raise ReportError(f"there is no folder {folder}; give the run folder that `vla fit` has written")
    parts = [*_curves(folder), *_data(folder), *_contract(folder), *_evaluations(folder), *_replays(folder)]
    if not parts:
        raise ReportError(
            f"{folder} holds no metrics.csv, {DATA_SUMMARY}, checkpoint, evaluation or replay; give the run folder "
            "that `vla fit` has written"
        )
    return page.page(f"Training run {folder.resolve().name}", parts)


def _curves(folder: Path) -> list[str]:
    """The curves, drawn anew: a run that is still going on has no picture yet."""
    with tempfile.TemporaryDirectory() as scratch:
        picture = Path(scratch) / "curves.png"
        draw_curves(folder, picture)
        if not picture.is_file():
            return []
        return [page.heading("Training"), page.image(picture.read_bytes(), "png", "losses over the steps")]


def _data(folder: Path) -> list[str]:
    file = folder / DATA_SUMMARY
    if not file.is_file():
        return []
    parts = [page.heading("Demonstrations")]
    summary = _read(file)
    counts = ("episodes", "frames", "commands")
    parts.append(page.table(("", *counts), [(name, *(part[key] for key in counts)) for name, part in summary.items()]))
    tasks = sorted({task for part in summary.values() for task in part["tasks"]})
    rows = [(task, *(part["tasks"].get(task, 0) for part in summary.values())) for task in tasks]
    return [*parts, page.table(("episodes by task", *summary), rows)]


def _contract(folder: Path) -> list[str]:
    file = folder / "checkpoint" / CONTRACT
    if not file.is_file():
        return []
    contract = PolicyContract.load(file)
    timing, provenance = contract.timing, contract.provenance
    cameras = ", ".join(f"{camera.name} {camera.width} x {camera.height}" for camera in contract.cameras)
    rows = [
        ("policy", f"{provenance.backbone}, {provenance.head}"),
        ("cameras", cameras),
        ("state", ", ".join(contract.observation_spec.proprioception) or "none"),
        ("timing", f"{timing.control_hz:g} Hz, {timing.history} frames seen, {timing.chunk} actions planned"),
        ("data", provenance.data_digest),
        ("vla_ros", provenance.package_version),
    ]
    return [page.heading("Checkpoint"), page.table(("", ""), rows)]


def _evaluations(folder: Path) -> list[str]:
    parts = []
    for file in sorted(folder.rglob("report.json")):
        content = _read(file)
        if "settings" in content:
            parts += [page.heading(f"Evaluation: {file.parent.relative_to(folder)}")]
            parts += evaluation_parts(content, file.parent / VIDEOS)
    return parts


def _replays(folder: Path) -> list[str]:
    parts = []
    for file in sorted(folder.rglob("replay*.json")):
        content = _read(file)
        if "diagnosis" in content:
            parts += [page.heading(f"Open loop: {', '.join(content['bags'])}"), *replay_parts(content)]
    return parts


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReportError(f"{file} is not JSON ({error}); make it again, or remove it") from None
    if not isinstance(content, dict):
        raise ReportError(f"{file} is no JSON object; make it again, or remove it")
    return content
