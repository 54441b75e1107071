# SPDX-License-Identifier: Apache-2.0
"""An entry of the store: the episodes of one part, as flat files, of which the images are mapped and never loaded.

A folder with one file for each camera and each array, frames one after the other, all episodes in a row, and
manifest.json, which says where each episode begins. Frames are raw bytes, so that any window is a copy out of the
page cache; `benchmarks/store.py` measures what other encodings cost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import StoreError
from vla_ros.datasets.shards import DecodeReport
from vla_ros.datasets.store.mapped_files import ArrayFile, MappedFiles, MappedImages, read_whole
from vla_ros.datasets.store.names import ELSEWHERE, MARKER, MARKER_TEXT

MANIFEST = "manifest.json"
ENTRY_VERSION = 1

_IMAGES = "images."
_ARRAYS = ("proprioception", "actions", "executed")
_TEXTS = tuple(
    field.name for field in dataclasses.fields(Episode) if field.name not in ("images", "ticks", *_ARRAYS)
)  # fmt: skip


class EntryWriter:
    """Writes episodes into `folder`, which must not exist yet. Nothing is kept in memory but the manifest.

    Raises:
        StoreError: the disk is full or can't be written; here and in all methods.
    """

    def __init__(self, folder: Path) -> None:
        with _written(folder):
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
            ValueError: its cameras or the sizes of its arrays are not those of the episodes before.
        """
        arrays: dict[str, NDArray] = {f"{_IMAGES}{camera}": images for camera, images in episode.images.items()}
        # Of all episodes alike, also of those of which only what was meant is known.
        arrays |= {"proprioception": episode.proprioception, "actions": episode.actions, "executed": episode.done}
        shapes = {name: list(array.shape[1:]) for name, array in arrays.items()}
        if self._episodes and shapes != self._shapes:
            raise ValueError(f"{episode.source}: arrays of shape {shapes}, but the episodes before had {self._shapes}")
        for name, array in arrays.items():
            with _written(self.folder):
                if name not in self._files:
                    self._files[name] = (self.folder / name).open("xb")
                    self._shapes[name], self._types[name] = shapes[name], array.dtype.str
                self._files[name].write(np.ascontiguousarray(array).data)
        row = {name: getattr(episode, name) for name in _TEXTS}
        place = {"first_tick": int(episode.ticks[0]), "frame": self._frames, "frames": len(episode)}
        self._episodes.append({**row, **place})
        self._frames += len(episode)

    def finish(self, decoded: DecodeReport, about: Mapping[str, Any]) -> None:
        """Write the manifest, with `about` in it, and make sure that all of it is on the disk."""
        with _written(self.folder):
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
                file.close()
        manifest = {
            "version": ENTRY_VERSION,
            **about,
            "frames": self._frames,
            "arrays": {name: {"type": self._types[name], "shape": shape} for name, shape in self._shapes.items()},
            "dropped": dict(decoded.dropped),
            "hint": decoded.hint,
            "damage": list(decoded.damage),
            "episodes": self._episodes,
        }
        with _written(self.folder):
            write_manifest(self.folder, manifest)

    def close(self) -> None:
        """Close the files of an entry that was not finished."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # what is in a buffer still finds no room on a full disk
                file.close()


@contextlib.contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Say what to do where the disk does not take what is written."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{folder.parent} can't be written ({error.strerror}); decoded demonstrations are kept there. Make room "
            f"(`vla store PATH --clean` removes what is stale), or {ELSEWHERE}"
        ) from None


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write manifest.json whole or not at all."""
    scratch = folder / f".{MANIFEST}.{os.getpid()}"
    with scratch.open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(folder / MANIFEST)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a whole entry; None for anything else: no entry, of another version, a file cut off."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["version"] != ENTRY_VERSION:
            return None
        for name, array in manifest["arrays"].items():
            expected = manifest["frames"] * _row_bytes(array)
            if (folder / name).stat().st_size != expected:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest


def open_entry(folder: Path, manifest: Mapping[str, Any], files: MappedFiles) -> list[Episode]:
    """Return the episodes of an entry. Images are read-only views of `files`; the rest, some bytes a frame, is read."""
    frames = manifest["frames"]
    stored = {
        name: ArrayFile(folder / name, array["type"], (frames, *array["shape"]))
        for name, array in manifest["arrays"].items()
    }
    cameras = {name.removeprefix(_IMAGES): file for name, file in stored.items() if name.startswith(_IMAGES)}
    arrays = {name: read_whole(stored[name]) for name in _ARRAYS if name in stored}
    episodes = []
    for row in manifest["episodes"]:
        part = slice(row["frame"], row["frame"] + row["frames"])
        fields: dict[str, Any] = {name: array[part] for name, array in arrays.items()}
        fields |= {name: tuple(row[name]) if isinstance(row[name], list) else row[name] for name in _TEXTS}
        ticks = np.arange(row["first_tick"], row["first_tick"] + row["frames"], dtype=np.int64)
        episodes.append(Episode(images=MappedImages(files, cameras, part), ticks=ticks, **fields))
    return episodes


def _row_bytes(array: Mapping[str, Any]) -> int:
    return int(np.prod(array["shape"], dtype=np.int64)) * np.dtype(array["type"]).itemsize
