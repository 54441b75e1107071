# SPDX-License-Identifier: Apache-2.0
"""What decoded episodes depend on, as digests: the bytes of the recording, the settings, and the code that reads."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy

_BLOCK_BYTES = 1 << 20

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
    for file in files:
        digest.update(f"{len(file.name)}:{file.name}:{file.stat().st_size}:".encode())
        with file.open("rb", buffering=0) as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def entry_key(content: str, settings: Mapping[str, Any]) -> str:
    """Return the key of an entry: equal only where content, settings and code are."""
    text = json.dumps([content, settings, reader_digest()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def reader_digest() -> str:
    """Return the digest of the code that decodes, ours and the libraries': another JPEG decoder, another picture."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in [*sorted(package.glob("*.py")), *sorted(package.glob("demos/**/*.py"))]:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    versions = [cv2.__version__, np.__version__, scipy.__version__, importlib.metadata.version("rosbags")]
    digest.update(" ".join(versions).encode())
    return digest.hexdigest()
