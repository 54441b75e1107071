# SPDX-License-Identifier: Apache-2.0
"""Read windows with LeRobot's own loader, in LeRobot's own environment; started by `store.py --lerobot-python`.

Nothing of vla_ros is imported. Replies are lines of JSON: one when the data set is open, after saving the loader's
first windows in REPLY; then, for each line received, the seconds it took to read all windows once.

    PYTHON lerobot_loader.py DATASET REQUEST.npz REPLY.npz
    REQUEST.npz: rows (n,), the data set's row of each window's last frame; history, chunk, batch, checked
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"  # it is all on the disk

import numpy as np
import torch
from lerobot.datasets.compute_stats import get_feature_stats
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.video_utils import get_safe_default_codec
from torch.utils.data import DataLoader, Subset


def main(folder: str, request_path: str, reply_path: str) -> None:
    torch.set_num_threads(1)
    request = {name: value.tolist() for name, value in np.load(request_path).items()}
    rows, batch = request["rows"], request["batch"]
    dataset = windowed(folder, request["history"], request["chunk"])
    checked = [dataset[row] for row in rows[: request["checked"]]]
    np.savez(
        reply_path,
        tasks=np.array([item["task"] for item in checked]),
        state=torch.stack([item["observation.state"] for item in checked]).numpy(),
        action=torch.stack([item["action"] for item in checked]).numpy(),
        **{name: torch.stack([item[name] for item in checked]).numpy() for name in dataset.meta.video_keys},
    )
    about = {
        "lerobot": importlib.metadata.version("lerobot"),
        "torch": torch.__version__,
        "decoder": get_safe_default_codec(),
        "decoder_version": importlib.metadata.version("torchcodec"),
        "episodes": dataset.num_episodes,
        "frames": dataset.num_frames,
        "largest_error_of_statistics": error_of_statistics(dataset),
    }
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        started_s = time.perf_counter()
        for _ in DataLoader(Subset(dataset, rows), batch_size=batch):
            pass
        print(json.dumps(time.perf_counter() - started_s), flush=True)


def windowed(folder: str, history: int, chunk: int) -> LeRobotDataset:
    """Open a data set so that a row is the history that ends there and the actions that start there."""
    plain = LeRobotDataset("local/converted", root=folder)
    before = [step / plain.fps for step in range(1 - history, 1)]
    after = [step / plain.fps for step in range(chunk)]
    deltas = {"observation.state": before, "action": after, **dict.fromkeys(plain.meta.video_keys, before)}
    return LeRobotDataset("local/converted", root=folder, delta_timestamps=deltas)


def error_of_statistics(dataset: LeRobotDataset) -> dict[str, float]:
    """Compare the stored statistics with LeRobot's own and with the true quantiles."""
    errors = {"moments": 0.0, "quantiles": 0.0}
    for name in ("action", "observation.state"):
        values = np.array(dataset.hf_dataset.with_format("numpy")[name][:], np.float64)
        expected, stored = get_feature_stats(values, axis=0, keepdims=False), dataset.meta.stats[name]
        for key in ("min", "max", "mean", "std"):
            errors["moments"] = max(errors["moments"], float(np.abs(expected[key] - stored[key]).max()))
        for key, share in (("q01", 0.01), ("q50", 0.5), ("q99", 0.99)):
            true = np.quantile(values, share, axis=0)
            errors["quantiles"] = max(errors["quantiles"], float(np.abs(true - stored[key]).max()))
    return errors


if __name__ == "__main__":
    main(*sys.argv[1:])
