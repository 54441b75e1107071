# SPDX-License-Identifier: Apache-2.0
"""Mismatches made on purpose, to see whether `diagnosis` finds them: what each does to episodes or to a contract."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import PolicyContract
from vla_ros.datasets.episode import Episode
from vla_ros.evaluation.replay import mismatches
from vla_ros.evaluation.replay.mismatches import angular_to_euler_rates, tool_rotations
from vla_ros.imaging import images

Names = Sequence[str]


@dataclasses.dataclass(frozen=True)
class Fault:
    """A mismatch to plant: the `name` under which it must be found, and what it does.

    episode: (episode, names of its proprioceptive values, contract) -> as a faulty robot would have recorded it;
    contract: as a faulty checkpoint would state it.
    """

    name: str
    episode: Callable[[Episode, Names, PolicyContract], Episode] | None = None
    contract: Callable[[PolicyContract], PolicyContract] | None = None


def _pictures(*cameras: str, change: Callable[[NDArray], NDArray]) -> Callable[..., Episode]:
    def plant(episode: Episode, _names: Names, _contract: PolicyContract) -> Episode:
        changed = {name: np.ascontiguousarray(change(episode.images[name])) for name in cameras or episode.images}
        return dataclasses.replace(episode, images={**episode.images, **changed})

    return plant


def _actions(change: Callable[[NDArray, Episode, Names], NDArray]) -> Callable[..., Episode]:
    def plant(episode: Episode, names: Names, _contract: PolicyContract) -> Episode:
        return dataclasses.replace(episode, actions=change(episode.actions.copy(), episode, names))

    return plant


def _inverted(actions: NDArray, _episode: Episode, _names: Names) -> NDArray:
    actions[:, 6] = 1 - actions[:, 6]
    return actions


def _thousandfold(actions: NDArray, _episode: Episode, _names: Names) -> NDArray:
    actions[:, :3] *= 1000
    return actions


def _euler(actions: NDArray, episode: Episode, names: Names) -> NDArray:
    rotation = tool_rotations(names, episode.proprioception)
    assert rotation is not None
    actions[:, 3:6] = angular_to_euler_rates(actions[:, 3:6], rotation)
    return actions


def _in_tool_frame(actions: NDArray, episode: Episode, names: Names) -> NDArray:
    rotation = tool_rotations(names, episode.proprioception)
    assert rotation is not None
    actions[:, :3], actions[:, 3:6] = rotation.inv().apply(actions[:, :3]), rotation.inv().apply(actions[:, 3:6])
    return actions


def _exchanged(episode: Episode, _names: Names, contract: PolicyContract) -> Episode:
    order = contract.camera_names
    pictures = {}
    for camera, other in zip(contract.cameras, (*order[1:], order[0]), strict=True):
        pictures[camera.name] = np.stack([images.resize(frame, camera) for frame in episode.images[other]])
    return dataclasses.replace(episode, images=pictures)


def _every_other_tick(episode: Episode, _names: Names, _contract: PolicyContract) -> Episode:
    """What is read of a recording at half the rate: labels are means over the longer period."""
    stop = 2 * (len(episode) // 2)
    return dataclasses.replace(
        episode,
        images={name: np.ascontiguousarray(frames[:stop:2]) for name, frames in episode.images.items()},
        proprioception=episode.proprioception[:stop:2].copy(),
        actions=(episode.actions[:stop:2] + episode.actions[1:stop:2]) / 2,
        ticks=np.arange(stop // 2, dtype=np.int64),
    )


def _state(*columns: str, change: Callable[[NDArray], NDArray]) -> Callable[..., Episode]:
    def plant(episode: Episode, names: Names, _contract: PolicyContract) -> Episode:
        values = episode.proprioception.copy()
        for index, name in enumerate(names):
            if name in columns:
                values[:, index] = change(values[:, index])
        return dataclasses.replace(episode, proprioception=values)

    return plant


def _other_action_statistics(contract: PolicyContract) -> PolicyContract:
    """Bounds of a faster robot that turns less."""
    scale = np.array([2.2, 2.2, 2.5, 0.4, 0.4, 0.5])
    low, high = (tuple((scale * np.array(bound)).tolist()) for bound in (contract.action.low, contract.action.high))
    return dataclasses.replace(contract, action=dataclasses.replace(contract.action, low=low, high=high))


def _other_state_statistics(contract: PolicyContract) -> PolicyContract:
    """Mean and std of a robot whose base stands elsewhere and which moves more."""
    known = contract.proprioception
    assert known is not None
    mean = tuple(m + 0.3 if unit == "m" else m for m, unit in zip(known.mean, known.units, strict=True))
    std = tuple(2 * s for s in known.std)
    return dataclasses.replace(contract, proprioception=dataclasses.replace(known, mean=mean, std=std))


FAULTS: Mapping[str, Fault] = {
    "BGR": Fault(mismatches.COLOUR_ORDER, _pictures(change=lambda x: x[..., ::-1])),
    "images upside down": Fault(mismatches.FLIPPED, _pictures(change=lambda x: x[:, ::-1])),
    "static camera mirrored": Fault(mismatches.FLIPPED, _pictures("static", change=lambda x: x[:, :, ::-1])),
    "gripper command inverted": Fault(mismatches.GRIPPER, _actions(_inverted)),
    "measured opening inverted": Fault(mismatches.GRIPPER, _state("gripper_opening", change=lambda x: 1 - x)),
    "Euler rates for a rotation vector": Fault(mismatches.ROTATION, _actions(_euler)),
    "tool for base frame": Fault(mismatches.FRAME, _actions(_in_tool_frame)),
    "half control rate": Fault(mismatches.RATE, _every_other_tick),
    "action statistics of other data": Fault(mismatches.STATISTICS, contract=_other_action_statistics),
    "state statistics of other data": Fault(mismatches.STATISTICS, contract=_other_state_statistics),
    "wrong camera order": Fault(mismatches.CAMERA_ORDER, _exchanged),
    "twists in mm/s": Fault(mismatches.UNITS, _actions(_thousandfold)),
    "poses in mm": Fault(mismatches.UNITS, _state("ee_x", "ee_y", "ee_z", change=lambda x: 1000 * x)),
}
