# SPDX-License-Identifier: Apache-2.0
"""Mismatches injected on purpose, to test `vla_ros.evaluation.replay.diagnosis`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import PolicyContract
from vla_ros.datasets.agreement import corrections
from vla_ros.datasets.agreement.corrections import euler_jacobian, tool_rotations
from vla_ros.datasets.episode import Episode
from vla_ros.evaluation.replay import mismatches
from vla_ros.imaging import images

Array = NDArray[Any]
Names = Sequence[str]


@dataclasses.dataclass(frozen=True)
class Injection:
    """A mismatch to inject.

    Attributes:
        name: Under which `diagnose` must find it.
        episode: (episode, names of its proprioceptive values, contract) -> as a faulty robot would have recorded it.
        contract: Returns the contract of a faulty checkpoint.
    """

    name: str
    episode: Callable[[Episode, Names, PolicyContract], Episode] | None = None
    contract: Callable[[PolicyContract], PolicyContract] | None = None


def _images(*cameras: str, change: Callable[[Array], Array]) -> Callable[..., Episode]:
    def inject(episode: Episode, _names: Names, _contract: PolicyContract) -> Episode:
        changed = {name: np.ascontiguousarray(change(episode.images[name])) for name in cameras or episode.images}
        return dataclasses.replace(episode, images={**episode.images, **changed})

    return inject


def _actions(change: Callable[[Array, Episode, Names], Array]) -> Callable[..., Episode]:
    def inject(episode: Episode, names: Names, _contract: PolicyContract) -> Episode:
        return dataclasses.replace(episode, actions=change(episode.actions.copy(), episode, names))

    return inject


def _inverted(actions: Array, _episode: Episode, _names: Names) -> Array:
    actions[:, 6] = 1 - actions[:, 6]
    return actions


def _thousandfold(actions: Array, _episode: Episode, _names: Names) -> Array:
    actions[:, :3] *= 1000
    return actions


def _euler(actions: Array, episode: Episode, names: Names) -> Array:
    rotation = tool_rotations(names, episode.proprioception)
    assert rotation is not None
    actions[:, 3:6] = np.linalg.solve(euler_jacobian(rotation), actions[:, 3:6, None])[..., 0]
    return actions


def _in_tool_frame(actions: Array, episode: Episode, names: Names) -> Array:
    rotation = tool_rotations(names, episode.proprioception)
    assert rotation is not None
    actions[:, :3], actions[:, 3:6] = rotation.inv().apply(actions[:, :3]), rotation.inv().apply(actions[:, 3:6])
    return actions


def _swapped(episode: Episode, _names: Names, contract: PolicyContract) -> Episode:
    order = contract.camera_names
    changed = {}
    for camera, other in zip(contract.cameras, (*order[1:], order[0]), strict=True):
        changed[camera.name] = np.stack([images.resize(frame, camera) for frame in episode.images[other]])
    return dataclasses.replace(episode, images=changed)


def _every_other_tick(episode: Episode, _names: Names, _contract: PolicyContract) -> Episode:
    """Read a recording at half the rate: labels become means over the longer period."""
    stop = 2 * (len(episode) // 2)
    return dataclasses.replace(
        episode,
        images={name: np.ascontiguousarray(frames[:stop:2]) for name, frames in episode.images.items()},
        proprioception=episode.proprioception[:stop:2].copy(),
        actions=(episode.actions[:stop:2] + episode.actions[1:stop:2]) / 2,
        ticks=np.arange(stop // 2, dtype=np.int64),
    )


def _state(*columns: str, change: Callable[[Array], Array]) -> Callable[..., Episode]:
    def inject(episode: Episode, names: Names, _contract: PolicyContract) -> Episode:
        values = episode.proprioception.copy()
        for index, name in enumerate(names):
            if name in columns:
                values[:, index] = change(values[:, index])
        return dataclasses.replace(episode, proprioception=values)

    return inject


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


INJECTED: Mapping[str, Injection] = {
    "BGR": Injection(mismatches.COLOUR_ORDER, _images(change=lambda x: x[..., ::-1])),
    "images upside down": Injection(mismatches.FLIPPED, _images(change=lambda x: x[:, ::-1])),
    "static camera mirrored": Injection(mismatches.FLIPPED, _images("static", change=lambda x: x[:, :, ::-1])),
    "gripper command inverted": Injection(corrections.GRIPPER, _actions(_inverted)),
    "measured opening inverted": Injection(corrections.GRIPPER, _state("gripper_opening", change=lambda x: 1 - x)),
    "Euler rates for a rotation vector": Injection(corrections.ROTATION, _actions(_euler)),
    "tool for base frame": Injection(corrections.FRAME, _actions(_in_tool_frame)),
    "half control rate": Injection(mismatches.RATE, _every_other_tick),
    "action statistics of other data": Injection(mismatches.STATISTICS, contract=_other_action_statistics),
    "state statistics of other data": Injection(mismatches.STATISTICS, contract=_other_state_statistics),
    "wrong camera order": Injection(mismatches.CAMERA_ORDER, _swapped),
    "twists in mm/s": Injection(corrections.UNITS, _actions(_thousandfold)),
    "poses in mm": Injection(corrections.UNITS, _state("ee_x", "ee_y", "ee_z", change=lambda x: 1000 * x)),
}
