# SPDX-License-Identifier: Apache-2.0
"""An entry of the store: the episodes of one shard as flat files, whose images are mapped instead of loaded.

The folder NAME-KEY has one file per camera and per array, all episodes in a row, and manifest.json, which says where
each begins. Images are raw bytes, so that reading any window is a copy out of the page cache; `benchmarks/store.py`
measures what other encodings cost. KEY is a digest of what the episodes depend on: recording, settings and code.
NAME-KEY.partial is an entry being written, and NAME-KEY.lock is locked by the process that writes it.
"""

from __future__ import annotations

import ast
import collections
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import mmap
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import StoreError
from vla_ros.datasets.shards import DecodeReport
from vla_ros.files import PARTIAL, is_plain_name

# The module that knows all formats. What it imports, other than the store, is the code that decodes.
SOURCES = "vla_ros.datasets.sources"
STORE = "vla_ros.datasets.store"

MANIFEST = "manifest.json"
ENTRY_VERSION = 1
LOCK = ".lock"
ELSEWHERE = "choose a folder on another disk: data.store=FOLDER of `vla fit`, --store FOLDER of `vla replay`"
# In every folder that a store makes, from the start.
MARKER = ".vla_store_entry"
MARKER_TEXT = "Decoded demonstrations, made by vla_ros. `vla store` lists and removes them.\n"
# Each map keeps its file open, and a process may usually open 1024 files for everything it does.
MAPS_AT_ONCE = 256

_IMAGES = "images."
_ARRAYS = ("proprioception", "actions")
_TEXTS = tuple(field.name for field in dataclasses.fields(Episode) if field.name not in ("images", "ticks", *_ARRAYS))
_KEY_CHARACTERS = 20  # in names; the manifest has the whole key
NAME = re.compile(rf"(?P<entry>(?P<shard>.+)-[0-9a-f]{{{_KEY_CHARACTERS}}})(?P<ending>|\{PARTIAL}|\{LOCK})", re.DOTALL)
_BLOCK_BYTES = 1 << 20
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

Stamps = list[list[Any]]  # for each file: path relative to the store, size in bytes, modification time in ns


def stamps(files: Iterable[Path], store: Path) -> Stamps:
    """Return what is known of files without reading them; raise OSError if one is gone."""
    rows = []
    for file in files:
        status = file.stat()
        rows.append([os.path.relpath(file.absolute(), store.absolute()), status.st_size, status.st_mtime_ns])
    return rows


def content_digest(files: Iterable[Path]) -> str:
    """Return the digest of the files' names and bytes, in order; their folders do not matter."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK_BYTES))
    for file in files:
        digest.update(f"{len(file.name)}:{file.name}:{file.stat().st_size}:".encode())
        with file.open("rb", buffering=0) as stream:
            while length := stream.readinto(block):
                digest.update(block[:length])
    return digest.hexdigest()


def sampling_settings(spec: ObservationSpec, timing: Timing) -> dict[str, Any]:
    """Return what of a contract frames and labels depend on: not the windows, nor how images are normalised."""
    return {
        "cameras": [[camera.name, camera.height, camera.width, camera.resize] for camera in spec.cameras],
        "proprioception": list(spec.proprioception),
        "control_hz": timing.control_hz,
        "settle_s": timing.settle_s,
    }


def entry_key(content: str, settings: Mapping[str, Any], reader: str) -> str:
    """Return the key of an entry, which changes with content, settings or code (`reader_digest`)."""
    return hashlib.sha256(json.dumps([content, settings, reader], sort_keys=True).encode()).hexdigest()


@functools.cache
def reader_digest() -> str:
    """Return the digest of the code that decodes, libraries included: another JPEG decoder gives other pixels."""
    versions = [cv2.__version__, np.__version__, *map(importlib.metadata.version, ("scipy", "rosbags"))]
    return hashlib.sha256(" ".join([code_digest(Path(__file__).parents[2]), *versions]).encode()).hexdigest()


def code_digest(package: Path) -> str:
    """Return the digest of the modules that decode, without their comments and docstrings.

    These are what `SOURCES` imports, directly or not, except itself and the store. The digest changes more often than
    the episodes do, which costs an extra decoding; a version to be raised by hand would some day cost wrong episodes.
    """
    found: dict[str, str] = {}
    waiting = [SOURCES]
    while waiting:
        name = waiting.pop()
        file = package.joinpath(*name.split(".")[1:]).with_suffix(".py")
        if name not in found and not name.startswith(STORE) and file.is_file():
            tree = ast.parse(file.read_bytes())
            waiting += _imports(tree)
            for node in ast.walk(tree):
                if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
                    node.body = node.body[1:]
            found[name] = ast.unparse(tree)
    del found[SOURCES]
    return hashlib.sha256("".join(f"{name}\0{text}\0" for name, text in sorted(found.items())).encode()).hexdigest()


def _imports(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted names below `vla_ros.` that a module imports, of modules and of what is in them."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:  # no import in the package is relative
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.startswith("vla_ros."))


def entry_name(shard: str, key: str) -> str:
    """Return the folder name of the entry with `key` of the shard that is named so."""
    return f"{safe_name(shard)}-{key[:_KEY_CHARACTERS]}"


def safe_name(shard: str) -> str:
    """Return a shard's name as the beginning of a file name."""
    return re.sub(r"[^\w.-]", "_", shard)[:80]


def shard_of(path: Path) -> str | None:
    """Return the safe name of the shard whose finished entry `path` is, by its name; None for any other name."""
    match = NAME.fullmatch(path.name)
    return match["shard"] if match and not match["ending"] else None


def lock_of(path: Path) -> Path:
    """Return the lock file of an entry, of its partial folder, or of the lock file itself."""
    return _sibling(path, LOCK)


def partial_of(path: Path) -> Path:
    """Return the folder in which an entry is being written, for any of its three paths."""
    return _sibling(path, PARTIAL)


def _sibling(path: Path, ending: str) -> Path:
    match = NAME.fullmatch(path.name)
    if match is None:
        raise StoreError(f"{path} does not belong to a store; names there end in - and {_KEY_CHARACTERS} hex digits")
    return path.with_name(match["entry"] + ending)


class EntryWriter:
    """Writes episodes into `folder`, which must not exist yet. Only the manifest is kept in memory.

    Raises:
        StoreError: the disk is full or not writable; here and in all methods.
    """

    def __init__(self, folder: Path) -> None:
        with _explain_write_errors(folder):
            folder.mkdir(parents=True)
            (folder / MARKER).write_text(MARKER_TEXT, encoding="utf-8")
        self.folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._arrays: dict[str, dict[str, Any]] = {}  # type and shape, without the frames' axis
        self._episodes: list[dict[str, Any]] = []
        self._frames = 0

    def add(self, episode: Episode) -> None:
        """Append an episode; raise ValueError if its cameras or array sizes differ from those of the ones before."""
        arrays: dict[str, NDArray[Any]] = {f"{_IMAGES}{camera}": images for camera, images in episode.images.items()}
        arrays |= {name: getattr(episode, name) for name in _ARRAYS}
        described = {name: {"type": one.dtype.str, "shape": list(one.shape[1:])} for name, one in arrays.items()}
        if self._episodes and described != self._arrays:
            raise ValueError(f"{episode.source}: arrays {described}, but the episodes before had {self._arrays}")
        self._arrays = described
        with _explain_write_errors(self.folder):
            for name, array in arrays.items():
                self._file(name).write(np.ascontiguousarray(array).data)
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
            "arrays": self._arrays,
            "dropped": dict(report.dropped),
            "hint": report.hint,
            "damage": list(report.damage),
            "episodes": self._episodes,
        }
        with _explain_write_errors(self.folder):
            self._file(MANIFEST).write(json.dumps(manifest, indent=1).encode())
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
                file.close()

    def close(self) -> None:
        """Close the files of an entry that was not finished."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # flushing the buffer fails again on a full disk
                file.close()

    def _file(self, name: str) -> BinaryIO:
        if name not in self._files:
            self._files[name] = (self.folder / name).open("xb")
        return self._files[name]


@contextlib.contextmanager
def _explain_write_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"decoded demonstrations can't be written to {folder.parent} ({error.strerror}). Free some space "
            f"(`vla store PATH --clean` removes stale entries), or {ELSEWHERE}"
        ) from None


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a whole entry; None if it is missing, damaged, cut off or of another version.

    A store may come with a copied data set: an array is only what lies in the folder, and only numbers.
    """
    try:
        if folder.is_symlink():
            return None
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["version"] != ENTRY_VERSION:
            return None
        for name, array in manifest["arrays"].items():
            row_bytes = int(np.prod(array["shape"], dtype=np.int64)) * np.dtype(array["type"]).itemsize
            file = folder / name
            if not is_plain_name(name) or not stat.S_ISREG(file.lstat().st_mode) or min(array["shape"], default=0) < 0:
                return None
            if np.dtype(array["type"]).kind not in "uif" or file.stat().st_size != manifest["frames"] * row_bytes:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return dict(manifest)


@dataclasses.dataclass(frozen=True)
class ArrayFile:
    """A file that holds one array, row-major, without a header."""

    path: Path
    type: str
    shape: tuple[int, ...]


class MappedFiles:
    """Maps files on demand, and drops the least recently used; they stay mapped for as long as an array views them."""

    def __init__(self) -> None:
        self._maps: collections.OrderedDict[ArrayFile, NDArray[Any]] = collections.OrderedDict()

    def array(self, file: ArrayFile) -> NDArray[Any]:
        """Return the array, read-only; raise StoreError if the file is gone or has become shorter."""
        if file in self._maps:
            self._maps.move_to_end(file)
            return self._maps[file]
        if len(self._maps) >= MAPS_AT_ONCE:
            self._maps.popitem(last=False)
        with _explain_read_errors(file), file.path.open("rb") as opened:
            mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[file] = np.ndarray(file.shape, file.type, mapping)
        return self._maps[file]


@dataclasses.dataclass(frozen=True, eq=False)
class MappedImages(Mapping[str, NDArray[np.uint8]]):
    """The images of an episode: camera -> (T, h, w, 3), the given rows of that camera's file."""

    files: MappedFiles
    cameras: Mapping[str, ArrayFile]
    rows: slice

    def __getitem__(self, camera: str) -> NDArray[np.uint8]:
        return self.files.array(self.cameras[camera])[self.rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self.cameras)

    def __len__(self) -> int:
        return len(self.cameras)


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
