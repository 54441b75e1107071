# SPDX-License-Identifier: Apache-2.0
"""What decoded episodes depend on, as digests: the bytes of the recording, the settings, and the code that reads."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vla_ros.contract import ObservationSpec, Timing

_BLOCK_BYTES = 1 << 20

# The module that knows all formats. What it imports, other than the store, is the code that decodes.
SOURCES = "vla_ros.datasets.sources"
STORE = "vla_ros.datasets.store"

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

Stamps = list[list[Any]]  # for each file: its path relative to the store, size in bytes, time of change in ns


def stamps(files: Iterable[Path], store: Path) -> Stamps:
    """Return what can be seen of files without reading them; raises OSError where one is gone."""
    rows = []
    for file in files:
        status = file.stat()
        rows.append([os.path.relpath(file.absolute(), store.absolute()), status.st_size, status.st_mtime_ns])
    return rows


def content_digest(files: Iterable[Path]) -> str:
    """Return the digest of the files' names and bytes, in their order; where they lie does not matter."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK_BYTES))
    for file in files:
        digest.update(f"{len(file.name)}:{file.name}:{file.stat().st_size}:".encode())
        with file.open("rb", buffering=0) as stream:
            while length := stream.readinto(block):
                digest.update(block[:length])
    return digest.hexdigest()


def entry_key(content: str, settings: Mapping[str, Any], reader: str) -> str:
    """Return the key of an entry: equal only where content, settings and code (`reader_digest`) are."""
    text = json.dumps([content, settings, reader], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def sampling_settings(spec: ObservationSpec, timing: Timing) -> dict[str, Any]:
    """Return what of a contract frames and labels depend on: not the windows, nor how images are normalised."""
    return {
        "cameras": [[camera.name, camera.height, camera.width, camera.resize] for camera in spec.cameras],
        "proprioception": list(spec.proprioception),
        "control_hz": timing.control_hz,
        "settle_s": timing.settle_s,
    }


@functools.cache
def reader_digest() -> str:
    """Return the digest of the code that decodes, ours and the libraries': another JPEG decoder, another picture."""
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
    """Yield the dotted names below `vla_ros.` that a module imports, those that are no modules too."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:  # nothing here is imported relatively
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.startswith("vla_ros."))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree
