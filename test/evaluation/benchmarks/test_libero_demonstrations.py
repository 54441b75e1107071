# SPDX-License-Identifier: Apache-2.0
"""The scripted expert on LIBERO and its recordings, on a robot that covers a quarter of a commanded motion."""

from __future__ import annotations

from typing import Any

import fake_libero
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla_ros.cli import main
from vla_ros.evaluation.benchmarks import libero
from vla_ros.evaluation.benchmarks.libero_demonstrations import STATES, STEPS, TASK, StoveExpert, demonstrate

KNOB_M = np.array([-0.4, 0.2, 0.9])
HANDLE_END_M = KNOB_M + [0.036, -0.01, 0.03]


class Stove:
    """A tool, and a handle whose end it drags along once beside it and low; on after 2 cm."""

    def __init__(self, stuck: bool = False) -> None:
        self.executed: list[np.ndarray] = []
        self.stuck = stuck

    def reset(self, *, seed: int | None, options: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
        assert options == {"task": TASK}
        self.position = np.array([-0.2, 0.01 * (seed or 0), 1.18])
        self.rotation = Rotation.from_rotvec([np.pi, 0, 0])
        self.pushed_m = 0.0
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.executed.append(np.array(action))
        moved = 0.25 * action[:3] / libero.CONTROL_HZ
        low = abs(self.position[2] - HANDLE_END_M[2]) < 0.03 and abs(self.position[0] - HANDLE_END_M[0]) < 0.02
        if low and self.position[1] < HANDLE_END_M[1] + self.pushed_m <= self.position[1] + moved[1] + 0.02:
            self.pushed_m += 0.0 if self.stuck else max(0.0, moved[1])
        self.position = self.position + moved
        self.rotation = Rotation.from_rotvec(0.25 * action[3:6] / libero.CONTROL_HZ) * self.rotation
        return self._seen(), 0.0, False, False, {"success": self.pushed_m > 0.02}

    def body_position(self, name: str) -> np.ndarray:
        assert name == "flat_stove_1_button"
        return KNOB_M

    def _seen(self) -> dict[str, Any]:
        image = np.full((libero.IMAGE_PX, libero.IMAGE_PX, 3), len(self.executed) % 256, np.uint8)
        return {
            "static": image,
            "wrist": image // 2,
            "ee_position": self.position,
            "ee_quaternion": self.rotation.as_quat(),
            "opening": np.array([0.9]),
        }


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_expert_succeeds_despite_noise(noise: float) -> None:
    lengths = []
    for state in range(4):
        episode = demonstrate(Stove(), state, "turn on the stove", noise)
        assert episode is not None and episode.command == "turn on the stove" and episode.outcome == "success"
        lengths.append(len(episode))
    assert max(lengths) < STEPS // 2


def test_labels_are_the_expert_s_and_frames_precede_the_action() -> None:
    scene = Stove()
    episode = demonstrate(scene, 0, "turn on the stove", 0.5)
    assert episode is not None
    action = StoveExpert().act(np.array([-0.2, 0.0, 1.18]), Rotation.from_rotvec([np.pi, 0, 0]).as_quat(), KNOB_M)
    assert episode.actions[0] == pytest.approx(action)
    shaken = np.array(scene.executed)[:, :6] - episode.actions[:, :6]
    assert (
        np.abs(shaken).max() > 0.1 and shaken[0] == pytest.approx(shaken[4]) and not np.allclose(shaken[4], shaken[5])
    )
    assert [int(image[0, 0, 0]) for image in episode.images["static"][:3]] == [0, 1, 2]
    assert episode.proprioception.shape == (len(episode), len(STATES))
    assert episode.proprioception[0, [0, 1, 2, 9]] == pytest.approx([-0.2, 0.0, 1.18, 0.9])


def test_the_expert_s_twist_is_bounded_and_the_tool_stays_upright() -> None:
    expert = StoveExpert()
    down = Rotation.from_rotvec([np.pi, 0, 0])
    tilted = Rotation.from_rotvec([0.2, 0, 0]) * down
    first = expert.act(np.array([3.0, -2.0, 1.0]), down.as_quat(), KNOB_M)
    assert np.linalg.norm(first[:3]) == pytest.approx(1.0) and not first[3:6].any() and first[6] == 0
    later = expert.act(np.array([3.0, -2.0, 1.0]), tilted.as_quat(), KNOB_M)
    assert later[3] < -1 and later[4:6] == pytest.approx([0, 0], abs=1e-6)


def test_a_failed_episode_is_none() -> None:
    assert demonstrate(Stove(stuck=True), 0, "turn on the stove", 0.0) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--episodes", "0"], "--episodes is 0; must be in [1, 10000]"),
        (["--noise", "nan"], "--noise is nan; must be in [0, 2]"),
        (["--first-state", "2", "--episodes", "2"], "exceeds the 3 initial states of turn_on_the_stove"),
    ],
)
def test_impossible_recordings_are_refused_first(arguments, message, monkeypatch, capsys, tmp_path) -> None:
    fake_libero.install(monkeypatch)
    monkeypatch.setattr(fake_libero, "TASKS", (TASK,))
    assert main(["record-libero", "--output", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
