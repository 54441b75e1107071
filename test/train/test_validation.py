# SPDX-License-Identifier: Apache-2.0
"""The validation loss is the mean over the valid actions of the held-out set, however it is cut into batches."""

from __future__ import annotations

import csv
import dataclasses
from typing import Any

import pytest
from tiny_training import make_episode

from vla_ros.policy.config import FlowConfig, ForwardPredictionConfig
from vla_ros.train.config import TrainConfig
from vla_ros.train.fit import fit


def validated(config: TrainConfig, episodes: list, batch_windows: int) -> dict[str, float]:
    """The validation's figures of a policy that learns nothing."""
    still = dataclasses.replace(
        config,
        name=f"by_{batch_windows}",
        optimizer=dataclasses.replace(config.optimizer, learning_rate=0.0),
        trainer=dataclasses.replace(config.trainer, max_steps=1, batch_windows=batch_windows),
    )
    fit(still, episodes)
    with (still.run_folder / "metrics.csv").open() as file:
        (row,) = (row for row in csv.DictReader(file) if row["val/loss"])
    return {name: float(value) for name, value in row.items() if name.startswith("val/")}


def odd_lengths() -> list:
    return [make_episode(index, length=3 + 2 * (index % 3)) for index in range(6)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head": "flow", "flow": FlowConfig(hidden_size=16, width=16, blocks=1, integration_steps=2)},
        {"forward": ForwardPredictionConfig(steps_ahead=2, patch_px=8, width=16, layers=1, attention_heads=2)},
    ],
    ids=["lstm", "flow", "forward prediction"],
)
def test_the_validation_loss_does_not_depend_on_the_batch_size(config, changes: dict[str, Any]) -> None:
    forward = changes.pop("forward", None)
    config = dataclasses.replace(
        config,
        policy=dataclasses.replace(config.policy, **changes),
        loss=dataclasses.replace(config.loss, forward_prediction=forward),
    )
    one, three, all_at_once = (validated(config, odd_lengths(), windows) for windows in (1, 3, 64))
    losses = [name for name in one if "of_repeating" not in name]
    assert "val/loss" in losses and len(losses) > 3
    for name in losses:
        assert one[name] == pytest.approx(all_at_once[name], rel=2e-5), name
        assert three[name] == pytest.approx(all_at_once[name], rel=2e-5), name
