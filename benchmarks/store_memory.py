# SPDX-License-Identifier: Apache-2.0
"""Peak resident memory of training on episodes of a store; `store.py` starts one process per measurement."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vla_ros import resources
from vla_ros.datasets.bags.reader import bag_shards
from vla_ros.datasets.store.store import load_shards
from vla_ros.robot import Robot, load_robot

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bags", type=Path, nargs="+", required=True, metavar="BAG")
    parser.add_argument("--robot", required=True, help="robot file or name")
    parser.add_argument("--store", type=Path, required=True, help="folder of the store")
    parser.add_argument("--episodes", type=int, required=True, help="number of episodes to train on, from the first")
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()
    print(watch_training(args.bags, args.episodes, load_robot(args.robot), args.store, args.steps))


def memory(bags: Sequence[Path], robot_name: str, episodes: int, store: Path, steps: int) -> dict[str, Any]:
    """Return the peak resident memory [MB] of training on a tenth of the episodes and on all."""

    def peak(count: int) -> dict[str, float]:
        command = [sys.executable, __file__, "--bags", *map(str, bags), "--robot", robot_name, "--store", str(store)]
        command += ["--episodes", str(count), "--steps", str(steps)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])

    few, all_of_them = peak(max(1, episodes // 10)), peak(episodes)
    return {
        "tenth": few,
        "all": all_of_them,
        "all_of_tenth": all_of_them["peak_mb"] / few["peak_mb"],
        "grown_mb_of_data_mb": (all_of_them["peak_mb"] - few["peak_mb"]) / (all_of_them["data_mb"] - few["data_mb"]),
    }


def watch_training(bags: Sequence[Path], count: int, robot: Robot, store: Path, steps: int) -> str:
    """Train on the first `count` episodes of `bags`; return the peak resident memory as JSON."""
    # Not above: processes that decode read this file with store.py, and need no torch.
    import torch

    from vla_ros.policy.module import VLAModule
    from vla_ros.train.data import DemonstrationData
    from vla_ros.train.initial_policy import new_policy, observation_spec
    from vla_ros.train.recipes import load_config

    torch.set_num_threads(1)
    config = load_config(resources.path("config/train") / "tabletop.json")
    spec, timing = observation_spec(config)
    episodes = load_shards(bag_shards(bags, robot, spec, timing), store, workers=1)[0][:count]
    policy = new_policy(config, episodes)
    module = VLAModule(policy, max_steps=steps, optimizer=config.optimizer, loss=config.loss, augment=config.augment)
    data = DemonstrationData(policy, training=episodes, validation=(), batch_windows=BATCH, max_steps=steps)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    module.log_dict = module.log = lambda *_, **__: None  # type: ignore[method-assign]
    peak_mb = 0.0
    for index, batch in enumerate(data.train_dataloader()):
        loss = module.training_step(batch, index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        peak_mb = max(peak_mb, resident_mb())
    pixels = sum(images.nbytes for episode in episodes for images in episode.images.values())
    return json.dumps({"peak_mb": peak_mb, "data_mb": pixels / 1e6, "episodes": len(episodes)})


def resident_mb() -> float:
    """Return this process's resident memory, mapped files included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
