# SPDX-License-Identifier: Apache-2.0
"""Which frames of a CALVIN split are demonstrations: its annotated segments, or its recordings without language.

A split has one episode_0000000.npz for each step. A folder beside them has auto_lang_ann.npy, with the annotations; it
is called lang_annotations, or after the language model that made the embeddings, which are not used.
ep_start_end_ids.npy has the first and the last frame of each recording.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.calvin.safe_pickle import PickledArray, read_npy
from vla_ros.datasets.errors import SourceError

Numbers = NDArray[np.int64]

ANNOTATIONS, DEFAULT = "auto_lang_ann.npy", "lang_annotations"
RECORDINGS = "ep_start_end_ids.npy"
TRAINING, VALIDATION = "training", "validation"
MOTION_STEPS = 300  # recordings without language last hours; cut into pieces of 10 s
_FRAME = re.compile(r"episode_(\d{7})\.npz")


class WithoutLanguage(SourceError):
    """A split has no language annotations."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """Frames [start, stop) of a split; `recording` is the first frame of the recording that they are cut from."""

    start: int
    stop: int
    command: str  # empty without language
    task: str
    recording: int


@dataclasses.dataclass(frozen=True)
class SplitContent:
    """The segments of a split whose frames are all there, in order; the file that lists them, and what was left out."""

    segments: tuple[Segment, ...]
    listed_in: Path
    notes: tuple[str, ...]


def find_splits(folder: Path) -> list[tuple[Path, bool]]:
    """Return the split that `folder` is, or its training and its validation split; the latter is to be held out.

    Raises:
        SourceError: `folder` is neither.
    """
    if is_split(folder):
        return [(folder, False)]
    if is_split(folder / TRAINING):
        held_out = [(folder / VALIDATION, True)] if is_split(folder / VALIDATION) else []
        return [(folder / TRAINING, False), *held_out]
    inside = [path.name for path in splits_inside(folder)] if folder.is_dir() else []
    raise SourceError(
        f"{folder} is not a split of CALVIN, because it has no episode_0000000.npz; must be a folder such as "
        f"task_D_D/training, or task_D_D, whose validation is then held out{'; it has ' if inside else ''}"
        f"{', '.join(inside)}"
    )


def splits_inside(folder: Path) -> list[Path]:
    """Return what in `folder` is a split or has a training split."""
    return sorted(path for path in folder.iterdir() if is_split(path) or is_split(path / TRAINING))


def is_split(folder: Path) -> bool:
    """Return whether `folder` has frames, recordings or annotations of CALVIN."""
    if not folder.is_dir():
        return False
    known = (folder / RECORDINGS).is_file() or (folder / DEFAULT / ANNOTATIONS).is_file()
    return known or any(_FRAME.fullmatch(entry.name) for entry in os.scandir(folder))


def read_segments(split: Path, annotations: str | None = None) -> SplitContent:
    """Return the annotated segments of a split, in the order of their frames.

    Args:
        annotations: the folder with the annotations; None for `DEFAULT`, or for any if they all say the same.

    Raises:
        SourceError: the annotations are missing, damaged, or not as CALVIN writes them, or no segment has its frames.
    """
    path, rows = _annotations(split, annotations)
    frames = _frames(split)
    recordings, notes = _recordings(split, frames)
    if path.parent.name != DEFAULT:
        notes.append(f"{split}: the annotations are those of {path.relative_to(split)}")
    segments = []
    for start, stop, command, task in rows:
        found = np.flatnonzero((recordings[:, 0] <= start) & (start <= recordings[:, 1]))
        if not len(found):
            raise SourceError(f"{path}: the segment {start} to {stop} is in no recording of {RECORDINGS}")
        segments.append(Segment(start, stop, command, task, int(recordings[found[0], 0])))
    return _with_frames(split, segments, frames, path, notes)


def read_recordings(split: Path) -> SplitContent:
    """Return the whole recordings of a split as segments without language, in pieces of `MOTION_STEPS`.

    Raises:
        SourceError: ep_start_end_ids.npy is missing or damaged, or no piece has its frames.
    """
    path = split / RECORDINGS
    if not path.is_file():
        raise SourceError(f"{path} is missing; without it motion_only can't know where a recording ends")
    frames = _frames(split)
    recordings, notes = _recordings(split, frames)
    pieces = [
        Segment(start, min(start + MOTION_STEPS, int(last) + 1), "", "motion", int(first))
        for first, last in recordings
        for start in range(int(first), int(last) + 1, MOTION_STEPS)
    ]
    notes.append(f"{split}: motion only; all commands are empty")
    return _with_frames(split, pieces, frames, path, notes)


def frame_file(split: Path, frame: int) -> Path:
    """Return the file of a frame."""
    return split / f"episode_{frame:07d}.npz"


def _with_frames(
    split: Path, segments: list[Segment], frames: Numbers, listed_in: Path, notes: list[str]
) -> SplitContent:
    """Leave out segments that lack frames, as they do in part of a data set."""
    if not segments:
        raise SourceError(f"{listed_in} lists no segment")
    ordered = sorted(segments, key=lambda segment: (segment.start, segment.stop, segment.command))
    begin, end = (np.searchsorted(frames, [getattr(one, name) for one in ordered]) for name in ("start", "stop"))
    whole = [one for one, count in zip(ordered, end - begin) if count == one.stop - one.start]
    if len(whole) < len(ordered):
        lacking = next(one for one, count in zip(ordered, end - begin) if count < one.stop - one.start)
        missing = int(np.setdiff1d(np.arange(lacking.start, lacking.stop), frames)[0])
        example = f"{frame_file(split, missing).name} is missing"
        if not whole:
            raise SourceError(
                f"{split}: none of its {len(ordered)} segments has all its frames; {example}. Copy the frames again"
            )
        left_out = len(ordered) - len(whole)
        notes = [*notes, f"{split}: {left_out} of {len(ordered)} segments lack frames and are left out; {example}"]
    return SplitContent(tuple(whole), listed_in, tuple(notes))


def _frames(split: Path) -> Numbers:
    """Return the numbers of the frames in `split`, sorted."""
    matches = (_FRAME.fullmatch(entry.name) for entry in os.scandir(split))
    return np.sort(np.fromiter((int(match[1]) for match in matches if match), np.int64))


def _annotations(split: Path, chosen: str | None) -> tuple[Path, list[tuple[int, int, str, str]]]:
    """Return the file of annotations, and its segments as (start, stop, command, task)."""
    paths = sorted([*split.glob(ANNOTATIONS), *split.glob(f"*/{ANNOTATIONS}")])
    found = {path.parent.relative_to(split).as_posix(): path for path in paths}
    if chosen is not None and chosen not in found:
        raise SourceError(f"{split} has no {chosen}/{ANNOTATIONS}; annotations must be {_one_of(found)}")
    if not found:
        way_out = 'set "motion_only": true in this source, to learn the motion alone (docs/data.md)'
        if split.name == VALIDATION:
            way_out = f"give {split.parent / TRAINING} as the path, of which a part is then held out"
        raise WithoutLanguage(
            f"{split} has no language annotations, such as {DEFAULT}/{ANNOTATIONS}: it is motion without commands. "
            f"Copy its annotations there, or {way_out}"
        )
    name = chosen or (DEFAULT if DEFAULT in found else next(iter(found)))
    rows = _parse(found[name])
    if chosen is None and name != DEFAULT and any(_parse(path) != rows for path in found.values()):
        raise SourceError(f'{split} has annotations that differ; set "annotations" in this source to {_one_of(found)}')
    return found[name], rows


def _one_of(names: dict[str, Path]) -> str:
    return " or ".join(names) or "left out, as there are none"


def _parse(path: Path) -> list[tuple[int, int, str, str]]:
    data = read_npy(path)
    commands, tasks = _list(path, data, "language", "ann"), _list(path, data, "language", "task")
    bounds = _list(path, data, "info", "indx")
    if not len(commands) == len(tasks) == len(bounds):
        raise SourceError(f"{path} has {len(commands)} texts, {len(tasks)} tasks and {len(bounds)} segments")
    rows = []
    for command, task, bound in zip(commands, tasks, bounds):
        start, stop = _bounds(path, bound)
        if not (isinstance(command, str) and isinstance(task, str) and command.strip()):
            raise SourceError(f"{path}: the segment {start} to {stop} has the text {command!r} and the task {task!r}")
        rows.append((start, stop, command.strip(), task))
    return rows


def _recordings(split: Path, frames: Numbers) -> tuple[Numbers, list[str]]:
    """Return the first and last frame of each recording (R, 2). Its segments overlap, so training splits by these."""
    if not (split / RECORDINGS).is_file() and len(frames):
        ends = np.flatnonzero(np.diff(frames) > 1)
        runs = np.stack([frames[[0, *(ends + 1)]], frames[[*ends, -1]]], axis=1)
        note = f"{split} has no {RECORDINGS}: its {len(runs)} runs of consecutive frames are taken for recordings"
        return runs, [note]
    bounds = read_npy(split / RECORDINGS)
    if not isinstance(bounds, np.ndarray) or bounds.ndim != 2 or bounds.shape[1] != 2 or bounds.dtype.kind not in "iu":
        raise SourceError(f"{split / RECORDINGS} must hold the first and last frame of each recording")
    return bounds.astype(np.int64), []


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
