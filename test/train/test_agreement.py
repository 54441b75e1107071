# SPDX-License-Identifier: Apache-2.0
"""Training refuses demonstrations whose actions contradict what the robot measured."""

from __future__ import annotations

import dataclasses

import pytest
from recorded_motions import NAMES, Arm, faults, record

from vla_ros.contract import Camera, ObservationSpec, Timing
from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.sources import Demonstrations, Source
from vla_ros.robot import load_robot
from vla_ros.train.demonstrations import require_agreement

TIMING = Timing(10.0, 2, 4)
SPEC = ObservationSpec((Camera("static", 8, 8),), NAMES)


def check(fault: str | None, format: str, spec: ObservationSpec = SPEC) -> None:
    episodes = [dataclasses.replace(record(Arm(10.0), seed), source=f"monday#{seed}") for seed in range(2)]
    if fault is not None:
        episodes = [faults(10.0)[fault][1](episode) for episode in episodes]
    robot = load_robot("tabletop") if format == "bags" else None
    require_agreement(Source("data.bags", format, ["x"], robot), Demonstrations(episodes), spec, TIMING)


@pytest.mark.parametrize(
    ("fault", "format", "words"),
    [
        ("tool frame for base frame", "bags", r"monday: frame: .*demonstrated_twist: \{frame: tool\}"),
        ("twists in mm/s", "bags", r"in mm/s\?; set labels: \{arm: motion\}"),
        ("labels of 0.4 s before", "bags", r"tool moves \d+ \+- \d+ ms before the command; set latency_s of"),
        ("gripper labels inverted", "bags", "exchange closed and open of gripper_command"),
        ("Euler rates for angular velocities", "lerobot", "set twist: null in meta/vla_ros.json"),
        ("x and y exchanged", "calvin", "the data are not as published"),
    ],
)
def test_a_clear_contradiction_is_refused_with_the_key_that_resolves_it(fault: str, format: str, words: str) -> None:
    with pytest.raises(SourceError, match=f"(?s)data.bags: actions contradict what the robot measured.*{words}"):
        check(fault, format)


@pytest.mark.parametrize(
    ("fault", "format"), [("gripper state of another gripper", "bags"), ("twists per step", "calvin")]
)
def test_a_doubtful_one_is_a_warning(fault: str, format: str, capsys: pytest.CaptureFixture[str]) -> None:
    check(fault, format)
    assert "data.bags: warning: monday: " in capsys.readouterr().out


def test_healthy_demonstrations_pass_silently(capsys: pytest.CaptureFixture[str]) -> None:
    check(None, "bags")
    assert not capsys.readouterr().out


def test_it_is_said_if_the_recipe_has_no_pose_to_compare_with(capsys: pytest.CaptureFixture[str]) -> None:
    check("x inverted", "bags", dataclasses.replace(SPEC, proprioception=()))
    assert "not compared with the tool's motion: no pose in contract.proprioception" in capsys.readouterr().out
