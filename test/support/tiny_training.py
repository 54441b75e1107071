# SPDX-License-Identifier: Apache-2.0
"""Small demonstrations and a recipe that fits a small policy to them in a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vla_ros.datasets.episode import Episode
from vla_ros.train.config import TrainConfig

COMMANDS = ("pick up the red block", "open the drawer")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_episode(index: int, length: int = 6, offset: float = 0.0) -> Episode:
    """Random pictures; the red block is reached with +x, the drawer with -x."""
    random = np.random.default_rng(index)
    actions = random.normal(0, 0.01, (length, 7))
    actions[:, 0] += (0.1 if index % 2 == 0 else -0.1) + offset
    actions[:, 6] = np.arange(length) < length // 2
    return Episode(
        images={name: random.integers(0, 256, (length, 16, 16, 3), dtype=np.uint8) for name in ("static", "wrist")},
        proprioception=(random.normal(0.4, 0.1, (length, 2)) + offset).astype(np.float32),
        actions=actions,
        command=COMMANDS[index % 2],
        task=COMMANDS[index % 2].replace(" ", "_"),
        outcome="success",
        source=f"bag#{index}",
        start_ns=0,
        ticks=np.arange(length, dtype=np.int64),
    )


@pytest.fixture
def episodes() -> list[Episode]:
    return [make_episode(index) for index in range(6)]


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    return make_recipe(tmp_path)


def make_recipe(tmp_path: Path) -> dict[str, Any]:
    """A recipe that writes below ``tmp_path``."""
    return {
        "name": "tiny",
        "output": str(tmp_path / "runs"),
        "data": {"validation_fraction": 0.34},
        "contract": {
            "cameras": [{"name": name, "height": 16, "width": 16} for name in ("static", "wrist")],
            "proprioception": ["ee_x", "gripper_opening"],
            "history": 2,
            "chunk": 3,
            "vocabulary_size": 400,
        },
        "policy": {
            "compact": {"channels": [8, 8, 8, 8], "keypoints": 8, "text_size": 16, "feature_size": 32},
            "lstm": {"hidden_size": 16, "mlp_size": 32},
        },
        "optimizer": {"learning_rate": 5e-3, "warmup_steps": 2},
        "trainer": {"max_steps": 6, "batch_windows": 4, "validate_every_steps": 3, "accelerator": "cpu"},
    }


@pytest.fixture
def config(recipe: dict[str, Any]) -> TrainConfig:
    return TrainConfig.from_dict(recipe)
