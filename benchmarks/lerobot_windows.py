# SPDX-License-Identifier: Apache-2.0
"""The same windows of the same episodes, from our store and from LeRobot's loader on the output of `vla convert`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset

from vla_ros import cli, resources
from vla_ros.datasets.bags.reader import bag_shards
from vla_ros.datasets.inspection.inspection import everything
from vla_ros.datasets.store.store import load_shards
from vla_ros.robot import Robot
from vla_ros.train.config import TrainConfig
from vla_ros.train.demonstrations import WindowDataset
from vla_ros.train.initial_policy import new_policy
from vla_ros.train.recipes import load_config

LOADER = Path(__file__).with_name("lerobot_loader.py")
SIZE, BATCH, BATCHES, CHECKED = 96, 32, 12, 64


def against_lerobot(python: Path, bags: Sequence[Path], robot_name: str, robot: Robot, scratch: Path, rounds: int) -> (
    dict[str, Any]
):  # fmt: skip
    """Convert `bags`, read random full windows with both in turns, and compare them.

    Both make batches in the process that asks, with one thread: pictures, states, actions. LeRobot's pictures are
    floats in [0, 1], ours bytes (they are made floats on the device, after augmentation); so ours are timed made floats
    at once, too.

    Raises:
        SystemExit: LeRobot reads something else than we do.
    """
    config = load_config(resources.path("config/train") / "tabletop.json")
    assert config.contract is not None
    history, chunk, control_hz = config.contract.history, config.contract.chunk, config.contract.control_hz
    folder = scratch / "lerobot"
    command = ["convert", *map(str, bags), "--to", "lerobot", "--output", str(folder), "--robot", robot_name]
    if cli.main([*command, "--control-hz", f"{control_hz:g}", "--size", f"{SIZE}x{SIZE}"]):
        raise SystemExit("vla convert failed; see its message above")
    spec, timing = everything(robot, control_hz, SIZE, SIZE)
    episodes = load_shards(bag_shards(bags, robot, spec, timing), scratch / "same", workers=1).episodes
    ours = _windows(config, spec, episodes)
    numbers, rows = _whole_windows([len(episode) for episode in episodes], history, ours)
    np.savez(scratch / "request.npz", rows=rows, history=history, chunk=chunk, batch=BATCH, checked=CHECKED)
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {"ours": [], "ours_as_floats": [], "lerobot": []}
    with _loader(python, folder, scratch) as loader:
        about = json.loads(_answer(loader))
        checked = _compare(ours, numbers[:CHECKED], scratch / "reply.npz", episodes, rows[:CHECKED])
        for name, reading in (("lerobot", None), ("ours", False), ("ours_as_floats", True)) * (rounds + 1):
            times[name].append(_ask(loader) if reading is None else _read(ours, numbers, reading))
    middle = {name: statistics.median(values[1:]) for name, values in times.items()}  # the first round warms up
    return {
        **about,
        **checked,
        "speed_of_lerobot": middle["lerobot"] / middle["ours"],
        "speed_of_lerobot_as_floats": middle["lerobot"] / middle["ours_as_floats"],
        "lerobot_windows_per_s": len(rows) / middle["lerobot"],
        "windows_per_s": len(rows) / middle["ours"],
        "windows_as_floats_per_s": len(rows) / middle["ours_as_floats"],
        "history": history,
        "converted_bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
    }


def _windows(config: TrainConfig, spec: Any, episodes: Sequence[Any]) -> WindowDataset:
    """Return the windows as `vla fit` would."""
    assert config.contract is not None
    contract = dataclasses.replace(config.contract, cameras=spec.cameras, proprioception=spec.proprioception)
    return WindowDataset(episodes, new_policy(dataclasses.replace(config, contract=contract), episodes))


def _whole_windows(lengths: Sequence[int], history: int, ours: WindowDataset) -> tuple[list[int], list[int]]:
    """Draw windows without padding: their indices in our table and the data set's rows of their last frames."""
    numbers, rows, first_window, first_row = [], [], 0, 0
    for length in lengths:
        for last in range(history - 1, length):
            numbers.append(first_window + last)
            rows.append(first_row + last)
        first_window += length + history - 1
        first_row += length
    assert first_window == len(ours)
    drawn = np.random.default_rng(0).choice(len(rows), BATCH * BATCHES)
    return [numbers[index] for index in drawn], [rows[index] for index in drawn]


def _read(ours: WindowDataset, numbers: Sequence[int], as_floats: bool) -> float:
    started_s = time.perf_counter()
    for batch in DataLoader(Subset(ours, numbers), batch_size=BATCH, collate_fn=lambda batch: batch):
        if as_floats:
            for pictures in batch["images"].values():
                pictures.permute(0, 1, 4, 2, 3).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    return time.perf_counter() - started_s


def _compare(
    ours: WindowDataset, numbers: Sequence[int], reply: Path, episodes: Sequence[Any], rows: Sequence[int]
) -> dict[str, Any]:
    """Return the differences of LeRobot's windows from ours; exit if they are other windows."""
    theirs = np.load(reply)
    batch = ours.__getitems__(numbers)
    pictures = {
        camera: np.abs(
            np.moveaxis(theirs[f"observation.images.{camera}"] * 255, 2, -1) - found.numpy().astype(np.float64)
        ).max()
        for camera, found in batch["images"].items()
    }
    of_row = np.concatenate([np.full(len(episode), number) for number, episode in enumerate(episodes)])
    commands = [episodes[of_row[row]].command for row in rows]
    actions = np.concatenate([episode.actions for episode in episodes])
    result = {
        "checked_windows": len(rows),
        "largest_error_of_pictures": float(max(pictures.values())),
        "largest_error_of_states": float(np.abs(theirs["state"] - batch["proprioception"].numpy()).max()),
        "largest_error_of_actions": float(np.abs(theirs["action"][:, 0] - actions[list(rows)]).max()),
        "tasks_equal": theirs["tasks"].tolist() == commands,
    }
    within = result["largest_error_of_pictures"] < 0.5 and result["largest_error_of_states"] < 1e-5
    if not (within and result["largest_error_of_actions"] < 1e-5 and result["tasks_equal"]):
        raise SystemExit(f"LeRobot reads back different data: {result}")
    return result


@contextlib.contextmanager
def _loader(python: Path, folder: Path, scratch: Path) -> Iterator[subprocess.Popen[str]]:
    """LeRobot's loader in its own interpreter, isolated from this one's path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), str(LOADER), str(folder), str(scratch / "request.npz"), str(scratch / "reply.npz")]
    with subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:  # fmt: skip
        yield process
        assert process.stdin is not None
        process.stdin.close()


def _ask(loader: subprocess.Popen[str]) -> float:
    assert loader.stdin is not None
    loader.stdin.write("\n")
    loader.stdin.flush()
    return float(json.loads(_answer(loader)))


def _answer(loader: subprocess.Popen[str]) -> str:
    assert loader.stdout is not None
    line = loader.stdout.readline()
    if not line:
        raise SystemExit("LeRobot's loader exited; see its message above")
    return line
