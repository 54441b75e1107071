# SPDX-License-Identifier: Apache-2.0
"""Small data sets in the formats other than bags, for `fuzz_bags.py` to damage."""

from __future__ import annotations

import logging
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np

from vla_ros.contract import Camera, ObservationSpec, Timing
from vla_ros.datasets.calvin.reader import calvin_shards
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.lerobot.reader import lerobot_shards
from vla_ros.datasets.rlds.reader import rlds_shards
from vla_ros.datasets.shards import SourceShard

sys.path.insert(0, str(Path(__file__).parents[1] / "test" / "support"))
from tiny_datasets import picture, png, write_calvin, write_rlds  # the writers of the tests

SPEC = ObservationSpec((Camera("static", 8, 8), Camera("wrist", 8, 8)), ())
TIMING = Timing(10.0, 4, 8)
READERS = {"CALVIN": calvin_shards, "RLDS": rlds_shards, "LeRobot": lerobot_shards}
FORMATS = tuple(READERS)
FRAMES = {"CALVIN": 4, "RLDS": 14, "LeRobot": 12}


def seeds(folder: Path) -> dict[str, Path]:
    """Write one data set of each format into `folder`."""
    relative = np.tile([0.5, 0, -0.5, 0, 0, 0.1, 1.0], (14, 1))
    euler = np.array([3.0, 0, 1.5]) + 0.005 * np.arange(14)[:, None] * np.array([0, 0, 1])
    segments = [(0, 7, "open the drawer", "open"), (6, 14, "close the drawer", "close")]
    write_calvin(folder / "calvin", segments, relative, euler)
    write_rlds(folder / "rlds", "jaco_play", [[_jaco_episode(8), _jaco_episode(8)]])
    _write_lerobot(folder / "lerobot")
    return {"CALVIN": folder / "calvin", "RLDS": folder / "rlds", "LeRobot": folder / "lerobot"}


def parts(name: str, folder: Path) -> list[SourceShard]:
    """Return what training would read from a data set; raises SourceError."""
    return READERS[name](folder, SPEC, TIMING)


def _jaco_episode(steps: int) -> dict[str, list]:
    poses = [[0.4 + 0.01 * step, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0] for step in range(steps)]
    return {
        "steps/observation/end_effector_cartesian_pos": np.ravel(poses).tolist(),
        "steps/action/gripper_closedness_action": [0.0] * (steps - 2) + [1.0, 1.0],
        "steps/observation/image": [png(picture(step)) for step in range(steps)],
        "steps/observation/image_wrist": [png(picture(step + 100)) for step in range(steps)],
        "steps/observation/natural_language_instruction": [b"pick up the cup"] * steps,
    }


def _write_lerobot(folder: Path) -> None:
    from vla_ros.datasets.lerobot.writer import LeRobotWriter

    logging.getLogger("libav").setLevel(logging.CRITICAL)
    random = np.random.default_rng(0)
    with LeRobotWriter.create(folder, Fraction(10), (), "tabletop") as writer:
        for number in range(2):
            images = {name: random.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8) for name in ("static", "wrist")}
            writer.add(
                Episode(
                    images=images,
                    proprioception=np.zeros((6, 0), np.float32),
                    actions=np.column_stack([np.full((6, 6), 0.1), np.ones(6)]),
                    command="open the drawer",
                    task="open",
                    outcome="success",
                    source=f"bag#{number}",
                    start_ns=0,
                    ticks=np.arange(6, dtype=np.int64),
                )
            )
