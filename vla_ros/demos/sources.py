# SPDX-License-Identifier: Apache-2.0
"""Every format of demonstrations that training reads, behind one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.demos.bag import ReadReport
from vla_ros.demos.calvin import calvin_parts
from vla_ros.demos.episode import Episode
from vla_ros.demos.errors import SourceError
from vla_ros.demos.parts import Part
from vla_ros.demos.rlds import rlds_parts
from vla_ros.demos.store import Progress, load_parts

# What is there beside bags: (path, spec, timing) -> parts. Bags also need the robot's file.
PARTS: dict[str, Callable[[Path, ObservationSpec, Timing], list[Part]]] = {
    "calvin": calvin_parts,
    "rlds": rlds_parts,
}
FORMATS = ("bags", *PARTS)


def load_demonstrations(
    parts: Sequence[Part], label: str, folder: Path | None, workers: int, progress: Progress | None = None
) -> tuple[list[Episode], ReadReport]:
    """Return the episodes of `parts` out of the store, decoding what is not there yet: see `store.load_parts`.

    Raises:
        SourceError: no episode is left of them; `label` says whose parts they are.
        UserError: a part can't be read, or the store can't be written.
    """
    episodes, dropped, hint = load_parts(parts, folder, workers, progress)
    counted = tuple((why, count) for why, count in dropped.most_common() if count)
    report = ReadReport(sum(map(len, episodes)), len(episodes), counted)
    if not episodes:
        raise SourceError(f"no episode is left of {label}; dropped: {report.dropped_text()}{hint}")
    return episodes, report
