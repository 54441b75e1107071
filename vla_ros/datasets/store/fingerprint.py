# SPDX-License-Identifier: Apache-2.0
"""Digests of what decoded episodes depend on (recording, settings, code), and the file names made of them.

NAME-KEY is the folder of a finished entry, NAME-KEY.partial of one being written, and NAME-KEY.lock is locked by the
process that writes it. A store may be any folder of the user's, so only what is recognised by name and content as
written by a store is ever removed.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.errors import StoreError
from vla_ros.files import PARTIAL

_BLOCK_BYTES = 1 << 20

# The module that knows all formats. What it imports, other than the store, is the code that decodes.
SOURCES = "vla_ros.datasets.sources"
STORE = "vla_ros.datasets.store"

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

LOCK = ".lock"
ELSEWHERE = "choose a folder on another disk: data.store=FOLDER of `vla fit`, --store FOLDER of `vla replay`"
# In every folder that a store makes, from the start.
MARKER = ".vla_store_entry"
MARKER_TEXT = "Decoded demonstrations, made by vla_ros. `vla store` lists and removes them.\n"
_KEY_CHARACTERS = 20  # in names; the manifest has the whole key
_NAME = re.compile(rf"(?P<entry>(?P<shard>.+)-[0-9a-f]{{{_KEY_CHARACTERS}}})(?P<ending>|\{PARTIAL}|\{LOCK})", re.DOTALL)

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
    text = json.dumps([content, settings, reader], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def reader_digest() -> str:
    """Return the digest of the code that decodes, libraries included: another JPEG decoder gives other pixels."""
    versions = [cv2.__version__, np.__version__, *map(importlib.metadata.version, ("scipy", "rosbags"))]
    return hashlib.sha256(" ".join([code_digest(Path(__file__).parents[2]), *versions]).encode()).hexdigest()


def code_digest(package: Path) -> str:
    """Return the digest of the modules that decode, without their comments and docstrings.

    It changes more often than the episodes do, which costs an extra decoding. A version number to be raised by hand
    would some day cost wrong episodes.
    """
    digest = hashlib.sha256()
    for name, tree in sorted(_closure(package).items()):
        digest.update(f"{name}\0{ast.unparse(_without_docstrings(tree))}\0".encode())
    return digest.hexdigest()


def _closure(package: Path) -> dict[str, ast.Module]:
    """Return the modules that decode: those that `SOURCES` imports, directly or not, except itself and the store."""
    trees: dict[str, ast.Module] = {}
    waiting = [SOURCES]
    while waiting:
        name = waiting.pop()
        file = package.joinpath(*name.split(".")[1:]).with_suffix(".py")
        if name not in trees and not name.startswith(STORE) and file.is_file():
            trees[name] = ast.parse(file.read_bytes())
            waiting += _imports(trees[name])
    del trees[SOURCES]
    return trees


def _imports(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted names below `vla_ros.` that a module imports, of modules and of what is in them."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:  # no import in the package is relative
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.startswith("vla_ros."))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


def entry_name(shard: str, key: str) -> str:
    """Return the folder name of the entry with `key` of the shard that is named so."""
    return f"{safe_name(shard)}-{key[:_KEY_CHARACTERS]}"


def safe_name(shard: str) -> str:
    """Return a shard's name as the beginning of a file name."""
    return re.sub(r"[^\w.-]", "_", shard)[:80]


def shard_of(path: Path) -> str | None:
    """Return the safe name of the shard whose finished entry `path` is, by its name; None for any other name."""
    match = _NAME.fullmatch(path.name)
    return match["shard"] if match and not match["ending"] else None


def lock_of(path: Path) -> Path:
    """Return the lock file of an entry, of its partial folder, or of the lock file itself."""
    return path.with_name(_entry_of(path) + LOCK)


def partial_of(path: Path) -> Path:
    """Return the folder in which an entry is being written, for any of its three paths."""
    return path.with_name(_entry_of(path) + PARTIAL)


def is_ours(path: Path) -> bool:
    """Return whether a store made `path`, an entry, a partial one or a lock, judging by its name and content."""
    match = _NAME.fullmatch(path.name)
    if match is None or path.is_symlink():
        return False
    if match["ending"] == LOCK:
        return path.is_file() and path.stat().st_size == 0
    if not path.is_dir():
        return False
    return (path / MARKER).is_file() or not any(path.iterdir())  # empty: killed before the marker was written


def require_ours(path: Path) -> None:
    """Raise StoreError if `path` must not be removed: no store made it, or somebody put a folder into it."""
    if not is_ours(path) or (path.is_dir() and any(one.is_dir() and not one.is_symlink() for one in path.iterdir())):
        raise StoreError(
            f"{path} is not removed, because vla_ros did not make it or it was changed since. Move it away, or "
            f"{ELSEWHERE}"
        )


def remove_folder(folder: Path) -> None:
    """Remove an entry's folder, its marker last, so that the rest of an interrupted removal is still recognised.

    Raises:
        StoreError: see `require_ours`; nothing was removed.
    """
    require_ours(folder)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == MARKER):
        path.unlink()
    folder.rmdir()


def _entry_of(path: Path) -> str:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise StoreError(f"{path} does not belong to a store; names there end in - and {_KEY_CHARACTERS} hex digits")
    return match["entry"]
