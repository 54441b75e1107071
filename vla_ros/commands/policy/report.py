# SPDX-License-Identifier: Apache-2.0
"""Write an HTML report of a training run: one file that opens offline.

vla report runs/finetune                                writes runs/finetune/report.html
vla report runs/finetune --output finetune.html

The report shows the training curves, the demonstrations, the contract, and evaluations and replays in the run folder:

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

from vla_ros import files, html
from vla_ros.contract import PolicyContract
from vla_ros.evaluation.closed_loop.config import VIDEOS
from vla_ros.evaluation.errors import EvaluationError
from vla_ros.evaluation.reports.evaluation_page import evaluation_blocks
from vla_ros.evaluation.reports.replay_page import replay_blocks
from vla_ros.policy.checkpoint import CONTRACT
from vla_ros.train.run_record import DATA, draw_curves

REPORT = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, as written by `vla fit`")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"the report (default: RUN/{REPORT})")


def run(args: argparse.Namespace) -> int:
    output = args.output or args.run / REPORT
    files.write_text(output, run_report(args.run))
    print(output)
    return 0


def run_report(folder: Path) -> str:
    """Return the page on a run folder, with whatever the folder contains."""
    if not folder.is_dir():
        raise EvaluationError(f"RUN must be a run folder written by `vla fit`; {folder} does not exist")
    blocks = [*_curves(folder), *_data(folder), *_contract(folder), *_results(folder)]
    if not blocks:
        raise EvaluationError(
            f"{folder} contains no metrics.csv, {DATA}, checkpoint, evaluation or replay; use a run folder "
            "written by `vla fit`"
        )
    return html.page(f"Training run {folder.resolve().name}", blocks)


def _curves(folder: Path) -> list[html.Block]:
    with tempfile.TemporaryDirectory() as scratch:  # draw them now: an unfinished run has no image yet
        image = Path(scratch) / "curves.png"
        draw_curves(folder, image)
        if not image.is_file():
            return []
        return [html.heading("Training"), html.images([image.read_bytes()], "png", "losses over training steps")]


def _data(folder: Path) -> list[html.Block]:
    file = folder / DATA
    if not file.is_file():
        return []
    splits = _read(file)
    counts = ("episodes", "frames", "commands")
    tasks = sorted({task for split in splits.values() for task in split["tasks"]})
    return [
        html.heading("Demonstrations"),
        html.table(("", *counts), [(name, *(split[key] for key in counts)) for name, split in splits.items()]),
        html.table(
            ("episodes by task", *splits),
            [(task, *(split["tasks"].get(task, 0) for split in splits.values())) for task in tasks],
        ),
    ]


def _contract(folder: Path) -> list[html.Block]:
    file = folder / "checkpoint" / CONTRACT
    if not file.is_file():
        return []
    contract = PolicyContract.load(file)
    timing, provenance = contract.timing, contract.provenance
    cameras = ", ".join(f"{camera.name} {camera.width} x {camera.height}" for camera in contract.cameras)
    rows = [
        ("policy", f"{provenance.backbone}, {provenance.head}"),
        ("cameras", cameras),
        ("proprioception", ", ".join(contract.observation_spec.proprioception) or "none"),
        ("timing", f"{timing.control_hz:g} Hz, {timing.history} observed frames, chunks of {timing.chunk} actions"),
        ("robots", ", ".join(provenance.robots) or "unknown"),
        ("data", provenance.data_digest),
        ("vla_ros", provenance.package_version),
    ]
    return [html.heading("Checkpoint"), html.table(("", ""), rows)]


def _results(folder: Path) -> list[html.Block]:
    blocks = []
    for file in sorted(folder.rglob("report.json")):
        if "settings" in (content := _read(file)):
            blocks += [html.heading(f"Evaluation: {file.parent.relative_to(folder)}")]
            blocks += evaluation_blocks(content, file.parent / VIDEOS)
    for file in sorted(folder.rglob("replay*.json")):
        if "diagnosis" in (content := _read(file)):
            blocks += [html.heading(f"Open loop: {', '.join(content['bags'])}"), *replay_blocks(content)]
    return blocks


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EvaluationError(f"{file} is not JSON ({error}); write it again, or delete it") from None
    if not isinstance(content, dict):
        raise EvaluationError(f"{file} is not a JSON object; write it again, or delete it")
    return content
