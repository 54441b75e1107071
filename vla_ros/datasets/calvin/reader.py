# SPDX-License-Identifier: Apache-2.0
"""Read CALVIN (Mees et al. 2022, arXiv:2112.03227): the language-annotated segments of a split, or all its motion.

A split is a folder such as task_ABC_D/training, with one episode_0000000.npz for each step at 30 Hz; `segments` says
which steps are read. A file holds the state and the images before its action. `rel_actions` are
increments of the tool's pose as CALVIN's environment takes them: +-1 is 0.02 m, or 0.05 rad of a fixed-axis xyz Euler
angle, in the base frame; the gripper is +1 open, -1 closed. Segments of any length are used.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from vla_ros import actions
from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.calvin.safe_pickle import read_npz
from vla_ros.datasets.calvin.segments import (
    Segment,
    SplitContent,
    find_splits,
    frame_file,
    read_recordings,
    read_segments,
)
from vla_ros.datasets.contents import Contents, require_recorded, states_of
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.shards import DecodeReport, SourceShard
from vla_ros.datasets.store.entry import sampling_settings
from vla_ros.datasets.trajectory import TOO_SHORT, Trajectory, to_episode

RATE_HZ = Fraction(30)
STEP_M, STEP_RAD = 0.02, 0.05
OPEN_WIDTH_M = 0.08  # of the Panda's two fingers
ROUNDING = 1e-3  # of rel_actions that were stored with 16 bits
CAMERAS = {"static": "rgb_static", "wrist": "rgb_gripper"}

SEGMENTS_PER_SHARD = 64


def calvin_shards(
    folder: Path, spec: ObservationSpec, timing: Timing, annotations: str | None = None, motion_only: bool = False
) -> list[SourceShard]:
    """Return the shards of a split, or of the training and validation splits in a folder, which is then held out.

    They are the segments in the order of their frames, `SEGMENTS_PER_SHARD` at a time. A shard is identified by the
    file that lists the segments and the first frame of each: reading every frame takes too long.

    Args:
        annotations: folder of the annotations, if several differ.
        motion_only: read the whole recordings, with empty commands.

    Raises:
        SourceError: the folder is not a split, its segments can't be read, or the contract requires another camera
            or a higher control rate.
    """
    require_recorded(calvin_contents(folder), spec, timing)
    shards = []
    for split, held_out in find_splits(folder):
        content = read_recordings(split) if motion_only else read_segments(split, annotations)
        shards += _split_shards(split, content, held_out, spec, timing)
    return shards


def calvin_contents(folder: Path) -> Contents:
    """Return what the split or splits in `folder` have; raise SourceError if there are none."""
    splits = ", ".join(f"{split.name}{' (held out)' if held_out else ''}" for split, held_out in find_splits(folder))
    return Contents(str(folder), f"CALVIN: {splits}", RATE_HZ, tuple(CAMERAS), states_of(pose=True, opening=True))


def _split_shards(
    split: Path, content: SplitContent, held_out: bool, spec: ObservationSpec, timing: Timing
) -> list[SourceShard]:
    shards = []
    for index in range(0, len(content.segments), SEGMENTS_PER_SHARD):
        chosen = content.segments[index : index + SEGMENTS_PER_SHARD]
        shards.append(
            SourceShard(
                name=f"{split.name}.{index // SEGMENTS_PER_SHARD:05d}",
                root=split,
                files=(content.listed_in, *dict.fromkeys(frame_file(split, segment.start) for segment in chosen)),
                settings={
                    "format": "calvin",
                    "name": split.name,
                    "segments": [dataclasses.astuple(segment) for segment in chosen],
                    **sampling_settings(spec, timing),
                },
                decode=functools.partial(_decode, split, chosen, spec, timing),
                notes=content.notes,
                held_out=held_out,
            )
        )
    return shards


def twists_from_relative(relative: NDArray[np.float64], euler: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert CALVIN's `rel_actions` (S, 6 or 7) at tool angles `euler` (S, 3) to twists (S, 6) in m/s and rad/s."""
    before = Rotation.from_euler("xyz", euler)
    after = Rotation.from_euler("xyz", euler + STEP_RAD * relative[:, 3:6])
    turned = (after * before.inv()).as_rotvec()
    return np.asarray(np.concatenate([STEP_M * relative[:, :3], turned], axis=1) * float(RATE_HZ))


def relative_from_twist(twist: NDArray[np.float64], euler: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return CALVIN's relative action (6,), clipped to +-1, for one step with a twist (6,) at tool angles (3,).

    Inverse of `twists_from_relative`, except at a quarter turn about y.
    """
    step_s = 1 / float(RATE_HZ)
    after = (Rotation.from_rotvec(twist[3:6] * step_s) * Rotation.from_euler("xyz", euler)).as_euler("xyz")
    turned = (after - euler + np.pi) % (2 * np.pi) - np.pi
    action: NDArray[np.float64] = np.concatenate([twist[:3] * step_s / STEP_M, turned / STEP_RAD])
    return action.clip(-1, 1)


def _decode(
    split: Path, segments: tuple[Segment, ...], spec: ObservationSpec, timing: Timing, add: Callable[[Episode], None]
) -> DecodeReport:
    dropped: Counter[str] = Counter()
    for segment in segments:
        episode = to_episode(_trajectory(split, segment, spec), spec, timing)
        if episode is None:
            dropped[TOO_SHORT] += segment.stop - segment.start
        else:
            add(episode)
    return DecodeReport(dropped)


def _trajectory(split: Path, segment: Segment, spec: ObservationSpec) -> Trajectory:
    keys = [CAMERAS[camera.name] for camera in spec.cameras]
    frames = [
        read_npz(frame_file(split, frame), ("rel_actions", "robot_obs", *keys))
        for frame in range(segment.start, segment.stop)
    ]
    for number, frame in enumerate(frames, segment.start):
        _check(frame_file(split, number), frame, keys)
    relative = np.stack([frame["rel_actions"] for frame in frames]).astype(np.float64)
    state = np.stack([frame["robot_obs"] for frame in frames]).astype(np.float64)
    quaternions = Rotation.from_euler("xyz", state[:, 3:6]).as_quat()
    return Trajectory(
        rate_hz=RATE_HZ,
        image=lambda camera, step: frames[step][CAMERAS[camera]],
        twists=twists_from_relative(relative, state[:, 3:6]),
        grippers=(relative[:, 6] > 0).astype(np.float64),
        poses=np.concatenate([state[:, :3], quaternions], axis=1),
        openings=actions.opening_from_value(state[:, 6], 0.0, OPEN_WIDTH_M),
        command=segment.command,
        task=segment.task,
        outcome="success" if segment.command else "unknown",
        source=f"{split.name}#{segment.recording}",
        first_step=segment.start,
    )


def _check(path: Path, frame: dict[str, NDArray[Any]], images: list[str]) -> None:
    for name, size in (("rel_actions", 7), ("robot_obs", 15)):
        array = frame[name]
        if array.shape != (size,) or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise SourceError(f"{path}: {name} is {array!r}; expected {size} finite numbers")
    if np.abs(frame["rel_actions"]).max() > 1 + ROUNDING:
        raise SourceError(f"{path}: rel_actions is {frame['rel_actions']}; CALVIN's are within -1 and 1")
    for name in images:
        array = frame[name]
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or array.size == 0:
            raise SourceError(f"{path}: {name} has shape {array.shape} and type {array.dtype}; expected an RGB image")
