# SPDX-License-Identifier: Apache-2.0
"""An entry of the store: the episodes of one shard as flat files, whose images are mapped instead of loaded.

A folder with one file per camera and per array, all episodes in a row, and manifest.json, which says where each
episode begins. Images are raw bytes, so that reading any window is a copy out of the page cache; `benchmarks/store.py`
measures what other encodings cost.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import StoreError
from vla_ros.datasets.shards import DecodeReport
from vla_ros.datasets.store.fingerprint import ELSEWHERE, MARKER, MARKER_TEXT
from vla_ros.files import write_text

MANIFEST = "manifest.json"
ENTRY_VERSION = 1
# Each map keeps its file open, and a process may usually open 1024 files for everything it does.
MAPS_AT_ONCE = 256

_IMAGES = "images."
_ARRAYS = ("proprioception", "actions", "executed")
_TEXTS = tuple(field.name for field in dataclasses.fields(Episode) if field.name not in ("images", "ticks", *_ARRAYS))


class EntryWriter:
    """Write episodes into `folder`, which must not exist yet. Only the manifest is kept in memory.

    Raises:
        StoreError: the disk is full or not writable; here and in all methods.
    """

    def __init__(self, folder: Path) -> None:
        with _explain_write_errors(folder):
            folder.mkdir(parents=True)
            (folder / MARKER).write_text(MARKER_TEXT, encoding="utf-8")
        self.folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._shapes: dict[str, list[int]] = {}
        self._types: dict[str, str] = {}
        self._episodes: list[dict[str, Any]] = []
        self._frames = 0

    def add(self, episode: Episode) -> None:
        """Append an episode.

        Raises:
            ValueError: its cameras or array sizes differ from those of the episodes before.
        """
        arrays: dict[str, NDArray[Any]] = {f"{_IMAGES}{camera}": images for camera, images in episode.images.items()}
        # `executed` of every episode, so that all have the same files.
        arrays |= {"proprioception": episode.proprioception, "actions": episode.actions, "executed": episode.done}
        shapes = {name: list(array.shape[1:]) for name, array in arrays.items()}
        if self._episodes and shapes != self._shapes:
            raise ValueError(f"{episode.source}: arrays of shape {shapes}, but the episodes before had {self._shapes}")
        with _explain_write_errors(self.folder):
            for name, array in arrays.items():
                if name not in self._files:
                    self._files[name] = (self.folder / name).open("xb")
                    self._shapes[name], self._types[name] = shapes[name], array.dtype.str
                self._files[name].write(np.ascontiguousarray(array).data)
        texts = {name: getattr(episode, name) for name in _TEXTS}
        where = {"first_tick": int(episode.ticks[0]), "frame": self._frames, "frames": len(episode)}
        self._episodes.append({**texts, **where})
        self._frames += len(episode)

    def finish(self, report: DecodeReport, about: Mapping[str, Any]) -> None:
        """Write the manifest, with `about` in it, and flush everything to the disk."""
        manifest = {
            "version": ENTRY_VERSION,
            **about,
            "frames": self._frames,
            "arrays": {name: {"type": self._types[name], "shape": shape} for name, shape in self._shapes.items()},
            "dropped": dict(report.dropped),
            "hint": report.hint,
            "damage": list(report.damage),
            "episodes": self._episodes,
        }
        with _explain_write_errors(self.folder):
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
                file.close()
            write_manifest(self.folder, manifest)

    def close(self) -> None:
        """Close the files of an entry that was not finished."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # flushing the buffer fails again on a full disk
                file.close()


@contextlib.contextmanager
def _explain_write_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"decoded demonstrations can't be written to {folder.parent} ({error.strerror}). Free some space "
            f"(`vla store PATH --clean` removes stale entries), or {ELSEWHERE}"
        ) from None


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write manifest.json atomically."""
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a whole entry; None if it is missing, damaged, cut off or of another version."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["version"] != ENTRY_VERSION:
            return None
        for name, array in manifest["arrays"].items():
            row_bytes = int(np.prod(array["shape"], dtype=np.int64)) * np.dtype(array["type"]).itemsize
            if (folder / name).stat().st_size != manifest["frames"] * row_bytes:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(manifest)


@dataclasses.dataclass(frozen=True)
class ArrayFile:
    """A file that holds one array, row-major, without a header."""

    path: Path
    type: str
    shape: tuple[int, ...]


class MappedFiles:
    """Maps files on demand, and drops the least recently used.

    A dropped file stays mapped for as long as an array views it.
    """

    def __init__(self) -> None:
        self._maps: collections.OrderedDict[ArrayFile, NDArray[Any]] = collections.OrderedDict()

    def array(self, file: ArrayFile) -> NDArray[Any]:
        """Return the array, read-only.

        Raises:
            StoreError: the file is gone or has become shorter.
        """
        if file in self._maps:
            self._maps.move_to_end(file)
            return self._maps[file]
        if len(self._maps) >= MAPS_AT_ONCE:
            self._maps.popitem(last=False)
        with _explain_read_errors(file), file.path.open("rb") as opened:
            mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[file] = np.ndarray(file.shape, file.type, mapping)
        return self._maps[file]


class MappedImages(Mapping[str, NDArray[np.uint8]]):
    """The images of an episode: camera -> (T, h, w, 3), the given rows of that camera's file."""

    def __init__(self, files: MappedFiles, cameras: Mapping[str, ArrayFile], rows: slice) -> None:
        self._files, self._cameras, self._rows = files, cameras, rows

    def __getitem__(self, camera: str) -> NDArray[np.uint8]:
        return self._files.array(self._cameras[camera])[self._rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cameras)

    def __len__(self) -> int:
        return len(self._cameras)


def open_entry(folder: Path, manifest: Mapping[str, Any], files: MappedFiles) -> list[Episode]:
    """Return the episodes of an entry. Images are read-only views of `files`; the small arrays are read."""
    stored = {
        name: ArrayFile(folder / name, array["type"], (manifest["frames"], *array["shape"]))
        for name, array in manifest["arrays"].items()
    }
    cameras = {name.removeprefix(_IMAGES): file for name, file in stored.items() if name.startswith(_IMAGES)}
    arrays = {name: _read_whole(stored[name]) for name in _ARRAYS if name in stored}
    episodes = []
    for row in manifest["episodes"]:
        rows = slice(row["frame"], row["frame"] + row["frames"])
        fields: dict[str, Any] = {name: array[rows] for name, array in arrays.items()}
        fields |= {name: tuple(row[name]) if isinstance(row[name], list) else row[name] for name in _TEXTS}
        ticks = np.arange(row["first_tick"], row["first_tick"] + row["frames"], dtype=np.int64)
        episodes.append(Episode(images=MappedImages(files, cameras, rows), ticks=ticks, **fields))
    return episodes


def _read_whole(file: ArrayFile) -> NDArray[Any]:
    with _explain_read_errors(file):
        array = np.fromfile(file.path, file.type).reshape(file.shape)
    array.flags.writeable = False
    return array


@contextlib.contextmanager
def _explain_read_errors(file: ArrayFile) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError) as error:  # the latter two: it has become shorter
        raise StoreError(
            f"{file.path} can't be read any more ({error}). Was the store cleaned or moved while in use? Run the same "
            "command again, with --resume for a training; missing entries are decoded anew"
        ) from None
