# SPDX-License-Identifier: Apache-2.0
"""What killed processes leave in shared memory, which is RAM: find it while they live, remove it when they are dead."""

from __future__ import annotations

import contextlib
from pathlib import Path

DIRECTORY = Path("/dev/shm")
PATTERNS = ("fastdds_*", "fastrtps_*", "sem.fast*")


def mapped_by(*process_ids: int) -> set[str]:
    """Names of the middleware's segments that these processes map; those that have ended map none."""
    names: set[str] = set()
    for process_id in process_ids:
        try:
            lines = Path(f"/proc/{process_id}/maps").read_text().splitlines()
        except OSError:  # it has ended, or is another user's
            continue
        names |= {_segment(line.split(maxsplit=5)[5]) for line in lines if f" {DIRECTORY}/fast" in line}
    return names


def children(process_id: int) -> list[int]:
    """The processes that this one has started and that live."""
    found: list[int] = []
    for path in Path(f"/proc/{process_id}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def remove(names: set[str]) -> None:
    """Remove these segments, with their locks and semaphores, but for those that a running process still maps."""
    if not names:
        return
    unused = names - mapped_by(*(int(path.name) for path in Path("/proc").glob("[0-9]*")))
    for file in (file for pattern in PATTERNS for file in DIRECTORY.glob(pattern)):
        if _segment(file.name) in unused:
            with contextlib.suppress(OSError):
                file.unlink()


def _segment(path: str) -> str:
    """The name of the segment that a file is, or that it locks (`NAME_el`, `sem.NAME_mutex`)."""
    return Path(path).name.removeprefix("sem.").removesuffix("_mutex").removesuffix("_el")
