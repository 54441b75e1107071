# SPDX-License-Identifier: Apache-2.0
"""Read CALVIN (Mees et al. 2022, arXiv:2112.03227): the language-annotated segments of a split.

A split is a folder such as task_ABC_D/training, with one episode_0000000.npz for each step at 30 Hz, and the segments
in lang_annotations/auto_lang_ann.npy. A file holds the state and the images before its action. `rel_actions` are
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
from vla_ros.datasets.calvin.safe_pickle import PickledArray, read_npy, read_npz
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.shards import DecodeReport, SourceShard
from vla_ros.datasets.store.entry import sampling_settings
from vla_ros.datasets.trajectory import TOO_SHORT, Trajectory, require_recorded, to_episode

RATE_HZ = Fraction(30)
STEP_M, STEP_RAD = 0.02, 0.05
OPEN_WIDTH_M = 0.08  # of the Panda's two fingers
CAMERAS = {"static": "rgb_static", "wrist": "rgb_gripper"}

ANNOTATIONS = Path("lang_annotations/auto_lang_ann.npy")
RECORDINGS = "ep_start_end_ids.npy"
SEGMENTS_PER_SHARD = 64


@dataclasses.dataclass(frozen=True)
class Segment:
    """Frames [start, stop) of a split; `recording` is the first frame of the recording that they are cut from."""

    start: int
    stop: int
    command: str
    task: str
    recording: int


def calvin_shards(split: Path, spec: ObservationSpec, timing: Timing) -> list[SourceShard]:
    """Return the shards of a split: its segments in the order of their frames, `SEGMENTS_PER_SHARD` at a time.

    A shard is identified by the annotations and the first frame of each segment: reading every frame takes too long.

    Raises:
        SourceError: the folder is not a split, the annotations can't be read, or the contract requires another camera
            or a higher control rate.
    """
    require_recorded(str(split), RATE_HZ, CAMERAS, spec, timing)
    segments = read_segments(split)
    shards = []
    for index in range(0, len(segments), SEGMENTS_PER_SHARD):
        chosen = tuple(segments[index : index + SEGMENTS_PER_SHARD])
        frames = [frame_file(split, segment.start) for segment in chosen]
        shards.append(
            SourceShard(
                name=f"{split.name}.{index // SEGMENTS_PER_SHARD:05d}",
                root=split,
                files=(split / ANNOTATIONS, *dict.fromkeys(file for file in frames if file.exists())),
                settings={
                    "format": "calvin",
                    "name": split.name,
                    "segments": [dataclasses.astuple(segment) for segment in chosen],
                    **sampling_settings(spec, timing),
                },
                decode=functools.partial(_decode, split, chosen, spec, timing),
            )
        )
    return shards


def read_segments(split: Path) -> list[Segment]:
    """Return the annotated segments of a split, in the order of their frames.

    Raises:
        SourceError: the annotations are missing, damaged, or not as CALVIN writes them.
    """
    path = split / ANNOTATIONS
    if not path.is_file():
        raise SourceError(
            f"{split} is not a split of CALVIN, because it has no {ANNOTATIONS}; must be a folder such as "
            "task_D_D/training"
        )
    data = read_npy(path)
    commands, tasks = _list(path, data, "language", "ann"), _list(path, data, "language", "task")
    bounds = _list(path, data, "info", "indx")
    recordings = _recordings(split)
    if not len(commands) == len(tasks) == len(bounds):
        raise SourceError(f"{path} has {len(commands)} texts, {len(tasks)} tasks and {len(bounds)} segments")
    segments = []
    for command, task, bound in zip(commands, tasks, bounds):
        start, stop = _bounds(path, bound)
        if not (isinstance(command, str) and isinstance(task, str) and command.strip()):
            raise SourceError(f"{path}: the segment {start} to {stop} has the text {command!r} and the task {task!r}")
        found = np.flatnonzero((recordings[:, 0] <= start) & (start <= recordings[:, 1]))
        if not len(found):
            raise SourceError(f"{path}: the segment {start} to {stop} is in no recording of {RECORDINGS}")
        segments.append(Segment(start, stop, command.strip(), task, int(recordings[found[0], 0])))
    return sorted(segments, key=lambda segment: (segment.start, segment.stop, segment.command))


def frame_file(split: Path, frame: int) -> Path:
    return split / f"episode_{frame:07d}.npz"


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
        outcome="success",
        source=f"{split.name}#{segment.recording}",
        first_step=segment.start,
    )


def _check(path: Path, frame: dict[str, NDArray[Any]], images: list[str]) -> None:
    for name, size in (("rel_actions", 7), ("robot_obs", 15)):
        array = frame[name]
        if array.shape != (size,) or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise SourceError(f"{path}: {name} is {array!r}; expected {size} finite numbers")
    if np.abs(frame["rel_actions"]).max() > 1 + 1e-6:
        raise SourceError(f"{path}: rel_actions is {frame['rel_actions']}; CALVIN's are within -1 and 1")
    for name in images:
        array = frame[name]
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or array.size == 0:
            raise SourceError(f"{path}: {name} has shape {array.shape} and type {array.dtype}; expected an RGB image")


def _recordings(split: Path) -> NDArray[np.int64]:
    """Return the first and last frame of each recording (R, 2). Its segments overlap, so training splits by these."""
    bounds = read_npy(split / RECORDINGS)
    if not isinstance(bounds, np.ndarray) or bounds.ndim != 2 or bounds.shape[1] != 2 or bounds.dtype.kind not in "iu":
        raise SourceError(f"{split / RECORDINGS} must hold the first and last frame of each recording")
    return bounds.astype(np.int64)


def _list(path: Path, data: Any, section: str, name: str) -> list[Any]:
    try:
        values = data[section][name]
        values = values.tolist() if isinstance(values, PickledArray) else values
    except (TypeError, KeyError, ValueError) as error:
        raise SourceError(f"{path} has no {section}.{name} ({error!r}): it is not CALVIN's annotation file") from None
    if not isinstance(values, list):
        raise SourceError(f"{path}: {section}.{name} is {type(values).__name__}; expected a list")
    return values


def _bounds(path: Path, bound: Any) -> tuple[int, int]:
    values = bound.tolist() if isinstance(bound, PickledArray) else bound
    if not isinstance(values, (tuple, list)) or len(values) != 2 or not all(type(value) is int for value in values):
        raise SourceError(f"{path}: info.indx has {bound!r}; expected pairs of frame numbers")
    start, stop = values
    if not 0 <= start < stop <= start + 100_000:
        raise SourceError(f"{path}: info.indx has a segment from {start} to {stop}")
    return start, stop
