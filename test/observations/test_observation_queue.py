# SPDX-License-Identifier: Apache-2.0
"""What waits for the engine while a model hangs."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.contract import Camera, ObservationSpec
from vla_ros.observations.observation import KEPT_SAMPLES, Observation, ObservationBuffer, ObservationQueue
from vla_ros.robot import ObservationLimits

MS = 1_000_000
SPEC = ObservationSpec((Camera("static", 4, 4),), ("gripper_opening",))


class Picture:
    def rgb(self) -> np.ndarray:
        return np.zeros((4, 4, 3), np.uint8)

    def fingerprint(self) -> bytes:
        return b""


@pytest.fixture
def intake():
    return ObservationQueue(ObservationBuffer(SPEC, ObservationLimits(0.3, 0.1, None)))


def test_a_command_survives_any_number_of_samples_after_it(intake):
    intake.push("language", 0, "stop here")
    for index in range(3 * KEPT_SAMPLES):
        intake.push("static", index * MS, Picture())
        intake.push("gripper_state", index * MS, 0.5)
    observation = intake.snapshot((3 * KEPT_SAMPLES - 1) * MS)
    assert isinstance(observation, Observation) and observation.command == "stop here"
    assert observation.stamps_ns["static"] == (3 * KEPT_SAMPLES - 1) * MS


def test_forgetting_survives_any_number_of_samples_after_it(intake):
    intake.push("language", 0, "of before")
    intake.snapshot(0)
    intake.clear()
    for index in range(3 * KEPT_SAMPLES):
        intake.push("static", index * MS, Picture())
        intake.push("gripper_state", index * MS, 0.5)
    assert intake.snapshot((3 * KEPT_SAMPLES - 1) * MS).reason == "no_command"


def test_what_waits_is_bounded_by_its_age_and_by_its_number(intake):
    for index in range(100):
        intake.push("static", index * 100 * MS, Picture())
    assert len(intake._waiting["static"]) == 11
    for index in range(2 * KEPT_SAMPLES):
        intake.push("gripper_state", index, 0.5)
    assert len(intake._waiting["gripper_state"]) == KEPT_SAMPLES
