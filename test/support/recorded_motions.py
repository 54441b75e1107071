# SPDX-License-Identifier: Apache-2.0
"""Recordings of arms that follow their commands as real ones do, and faults to plant in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from vla_ros.datasets.agreement import corrections, gripper, motion
from vla_ros.datasets.agreement.corrections import euler_jacobian, tool_rotations
from vla_ros.datasets.episode import Episode
from vla_ros.observations.observation import proprioception

NAMES = ("ee_x", "ee_y", "ee_z", *(f"ee_r{index}" for index in range(6)), "gripper_opening")
STEP_S = 0.002  # of the simulated arm


@dataclasses.dataclass(frozen=True)
class Arm:
    """An arm with someone who drives it.

    `dead_s` and `lag_s` lie between command and motion; `contact` is the share of time in which something holds the
    tool along z; `noise_m` that of the pose; `angles` the tool's first orientation, fixed axes xyz.
    """

    rate_hz: float
    linear_mps: float = 0.1
    angular_radps: float = 0.4
    dead_s: float = 0.04
    lag_s: float = 0.06
    noise_m: float = 0.0003
    contact: float = 0.0
    angles: tuple[float, float, float] = (np.pi, 0.1, 1.3)
    seconds: float = 12.0


def wander(random: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Smooth speeds (count, size) of about 1, with pauses, of a person who starts, corrects and stops."""
    times_s = np.arange(count) * STEP_S
    phases = random.uniform(0, 2 * np.pi, (size, 4))
    rates = random.uniform(0.3, 3.0, (size, 4))
    waves = np.sin(times_s[:, None, None] * rates + phases).sum(axis=2) / 1.4
    busy = np.clip(2 * np.sin(times_s * random.uniform(0.5, 0.9) + random.uniform(0, 6)) + 1.2, 0, 1)
    return waves * busy[:, None]


def record(arm: Arm, seed: int) -> Episode:
    """Drive the arm for a while, and record it as an episode at its rate."""
    random = np.random.default_rng(seed)
    count = round(arm.seconds / STEP_S)
    commanded = wander(random, count, 6) * np.repeat([arm.linear_mps, arm.angular_radps], 3)
    dead = round(arm.dead_s / STEP_S)
    late = np.concatenate([np.zeros((dead, 6)), commanded[: count - dead]])
    held = wander(random, count, 1)[:, 0] > np.quantile(wander(random, count, 1)[:, 0], 1 - arm.contact)
    place, turned, moving = np.array([0.45, 0.0, 0.3]), Rotation.from_euler("xyz", arm.angles), np.zeros(6)
    poses = np.zeros((count, 7))
    for index, twist in enumerate(late):
        moving = moving + (twist - moving) * min(STEP_S / max(arm.lag_s, STEP_S), 1.0)
        poses[index] = [*place, *turned.as_quat()]
        now = moving * (np.array([1, 1, 0, 1, 1, 1]) if held[index] and arm.contact else 1)
        place, turned = place + now[:3] * STEP_S, Rotation.from_rotvec(now[3:] * STEP_S) * turned
    poses[:, :3] += random.normal(0, arm.noise_m, (count, 3))
    at = (np.arange(int(arm.seconds * arm.rate_hz)) / arm.rate_hz / STEP_S).astype(int)
    ends = [*at[1:], count]
    twists = np.stack([commanded[start:stop].mean(axis=0) for start, stop in zip(at, ends, strict=True)])
    closed = np.zeros(len(at), bool)
    closed[int(0.4 * len(at)) : int(0.8 * len(at))] = True
    opening = _fingers(np.where(closed, 0.3, 1.0), arm.rate_hz)
    states = np.stack([proprioception(NAMES, poses[i], opening[k]) for k, i in enumerate(at)])
    return Episode(
        images={}, proprioception=states, actions=np.concatenate([twists, (~closed)[:, None]], axis=1).astype(float),
        command="go", task="go", outcome="success", source=f"recording#{seed}", start_ns=0,
        ticks=np.arange(len(at), dtype=np.int64),
    )  # fmt: skip


def _fingers(wanted: np.ndarray, rate_hz: float) -> np.ndarray:
    """Openings that follow at 2 strokes per second; 0.3 is an object between the fingers."""
    result = [1.0]
    for one in wanted[1:]:
        result.append(result[-1] + float(np.clip(one - result[-1], -2 / rate_hz, 2 / rate_hz)))
    return np.array(result)


HEALTHY: Mapping[str, Arm] = {
    "arm at 10 Hz": Arm(10.0),
    "CALVIN-like at 30 Hz": Arm(30.0, linear_mps=0.15, angles=(3.05, -0.03, 1.5), dead_s=0.0),
    "DROID-like at 15 Hz": Arm(15.0, dead_s=0.1, lag_s=0.15, angles=(2.6, 0.5, -0.9)),
    "BridgeData-like at 5 Hz": Arm(5.0, seconds=20.0),
    "slow arm at 20 Hz": Arm(20.0, linear_mps=0.012, angular_radps=0.06, seconds=30.0),
    "arm in contact at 50 Hz": Arm(50.0, contact=0.5),
    "arm that yields at 29.97 Hz": Arm(29.97, lag_s=0.25, noise_m=0.001),
    "arm that barely moves": Arm(10.0, linear_mps=0.0005, angular_radps=0.002),
}
FAULTY: Sequence[str] = ("arm at 10 Hz", "CALVIN-like at 30 Hz", "DROID-like at 15 Hz", "arm in contact at 50 Hz")


def _of_twists(change: Callable[[np.ndarray, Rotation], np.ndarray]) -> Callable[[Episode], Episode]:
    def plant(episode: Episode) -> Episode:
        rotations = tool_rotations(NAMES, episode.proprioception)
        assert rotations is not None
        actions = np.concatenate([change(episode.actions[:, :6].copy(), rotations), episode.actions[:, 6:]], axis=1)
        return dataclasses.replace(episode, actions=actions)

    return plant


def _scaled(*factors: float) -> Callable[[Episode], Episode]:
    return _of_twists(lambda twists, _: twists * np.array(factors))


def _ordered(*columns: int) -> Callable[[Episode], Episode]:
    return _of_twists(lambda twists, _: twists[:, list(columns)])


def _rotated(inverse: bool) -> Callable[[Episode], Episode]:
    def change(twists: np.ndarray, rotations: Rotation) -> np.ndarray:
        turn = rotations.inv() if inverse else rotations
        return np.concatenate([turn.apply(twists[:, :3]), turn.apply(twists[:, 3:])], axis=1)

    return _of_twists(change)


def _of_later(twists: np.ndarray, _: Rotation) -> np.ndarray:
    return np.roll(twists, len(twists) // 2, axis=0)


def _euler_rates(twists: np.ndarray, rotations: Rotation) -> np.ndarray:
    twists[:, 3:] = np.linalg.solve(euler_jacobian(rotations), twists[:, 3:, None])[..., 0]
    return twists


def _delayed(seconds: float, rate_hz_of: Callable[[Episode], float]) -> Callable[[Episode], Episode]:
    """Label each frame with what was commanded `seconds` after it; negative: before."""

    def plant(episode: Episode) -> Episode:
        shift = round(seconds * rate_hz_of(episode))
        kept = np.arange(max(0, -shift), len(episode) - max(0, shift))
        return dataclasses.replace(
            episode, actions=episode.actions[kept + shift], proprioception=episode.proprioception[kept],
            ticks=np.arange(len(kept)), images={name: images[kept] for name, images in episode.images.items()},
        )  # fmt: skip

    return plant


def _states(column: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Episode], Episode]:
    def plant(episode: Episode) -> Episode:
        states = episode.proprioception.copy()
        columns = [index for index, name in enumerate(NAMES) if name.startswith(column)]
        states[:, columns] = change(states[:, columns])
        return dataclasses.replace(episode, proprioception=states)

    return plant


def _of_gripper(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Episode], Episode]:
    def plant(episode: Episode) -> Episode:
        actions = episode.actions.copy()
        actions[:, 6] = change(actions[:, 6])
        return dataclasses.replace(episode, actions=actions)

    return plant


def _in_mm(episode: Episode) -> Episode:
    states = episode.proprioception.copy()
    states[:, :3] *= 1000
    return dataclasses.replace(episode, proprioception=states)


def faults(rate_hz: float) -> dict[str, tuple[str, Callable[[Episode], Episode]]]:
    """Return the faults by what was planted: the name under which it must be found, and what plants it."""

    def rate(_: Episode) -> float:
        return rate_hz

    one = (1.0,) * 3
    return {
        "x and y exchanged": (corrections.SWAPPED_AXES, _ordered(1, 0, 2, 3, 4, 5)),
        "x, y, z as z, x, y": (corrections.SWAPPED_AXES, _ordered(2, 0, 1, 5, 3, 4)),
        "x inverted": (corrections.SWAPPED_AXES, _scaled(-1, 1, 1, *one)),
        "rotation about y inverted": (corrections.SWAPPED_AXES, _scaled(*one, 1, -1, 1)),
        "base turned by 180 degrees": (corrections.SWAPPED_AXES, _scaled(-1, -1, 1, -1, -1, 1)),
        "base turned by 90 degrees": (
            corrections.SWAPPED_AXES, _of_twists(lambda twists, _: twists[:, [1, 0, 2, 4, 3, 5]] * [1, -1, 1, 1, -1, 1])
        ),
        "tool frame for base frame": (corrections.FRAME, _rotated(inverse=True)),
        "rotated into the base frame twice": (corrections.FRAME, _rotated(inverse=False)),
        "twists in mm/s": (corrections.UNITS, _scaled(1000, 1000, 1000, *one)),
        "twists in degrees/s": (corrections.UNITS, _scaled(*one, *(180 / np.pi,) * 3)),
        "twists per step": (corrections.UNITS, _scaled(*(1 / rate_hz,) * 6)),
        "poses in mm": (corrections.UNITS, _in_mm),
        "Euler rates for angular velocities": (corrections.ROTATION, _of_twists(_euler_rates)),
        "labels of 0.4 s before": (motion.DELAY, _delayed(-0.4, rate)),
        "labels of 0.7 s after": (motion.DELAY, _delayed(0.7, rate)),
        "no twists": (motion.NOT_COMMANDED, _scaled(*(0.0,) * 6)),
        "twists of another hour": (motion.UNRELATED, _of_twists(_of_later)),
        "gripper labelled open throughout": (gripper.NEVER_LABELLED, _of_gripper(np.ones_like)),
        "gripper labels inverted": (corrections.GRIPPER, _of_gripper(lambda labels: 1 - labels)),
        "gripper state of another gripper": (gripper.NEVER_MOVES, _states("gripper", np.zeros_like)),
    }  # fmt: skip
