# SPDX-License-Identifier: Apache-2.0
"""An episode that does not fit together never gets into training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vla_ros.datasets.episode import Episode


def fields(length: int = 3) -> dict[str, Any]:
    return {
        "images": {"static": np.zeros((length, 4, 4, 3), np.uint8)},
        "proprioception": np.zeros((length, 2), np.float32),
        "actions": np.zeros((length, 7)),
        "command": "push", "task": "push", "outcome": "success", "source": "bag#0", "start_ns": 0,
        "ticks": np.arange(length),
    }  # fmt: skip


def test_fitting_parts_make_an_episode_of_their_length() -> None:
    assert len(Episode(**fields())) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": {"static": np.zeros((2, 4, 4, 3), np.uint8)}}, r"images\['static'\]"),
        ({"images": {"static": np.zeros((3, 4, 4, 3))}}, "float64"),
        ({"proprioception": np.zeros((3, 2))}, r"proprioception.*float64.*expected \(3, 2\) float32"),
        ({"actions": np.zeros((3, 6))}, r"actions.*\(3, 6\)"),
        ({"actions": np.full((3, 7), np.nan)}, "actions.*not finite"),
        ({"actions": np.full((3, 7), 1.5)}, "gripper opening"),
        ({"ticks": np.array([0, 1, 3])}, "ticks.*consecutive"),
        ({"outcome": "good"}, "outcome: got good"),
        (fields(0), "at least one tick"),
    ],
)
def test_parts_that_do_not_fit_are_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Episode(**{**fields(), **change})
