# SPDX-License-Identifier: Apache-2.0
"""Every format of demonstrations that training reads, behind one function."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.calvin.reader import calvin_parts
from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.lerobot.reader import lerobot_parts
from vla_ros.datasets.parts import Decoded, Part
from vla_ros.datasets.report import ReadReport
from vla_ros.datasets.rlds.reader import rlds_parts
from vla_ros.datasets.store.store import Loaded, Progress, load_parts

# What is there beside bags: (path, spec, timing) -> parts. Bags also need the robot's file.
PARTS: dict[str, Callable[[Path, ObservationSpec, Timing], list[Part]]] = {
    "calvin": calvin_parts,
    "lerobot": lerobot_parts,
    "rlds": rlds_parts,
}


def load_demonstrations(
    parts: Sequence[Part], label: str, folder: Path | None, workers: int, progress: Progress | None = None
) -> tuple[Loaded, ReadReport]:
    """Return what is in `parts` out of the store, decoding what is not there yet: see `store.load_parts`.

    Raises:
        SourceError: no episode is left of them; `label` says whose parts they are.
        UserError: a part can't be read, or the store can't be written.
    """
    loaded = load_parts(parts, folder, workers, progress)
    report = ReadReport.of(loaded.episodes, Decoded(loaded.dropped, damage=loaded.damage))
    if not loaded.episodes:
        raise SourceError(f"no episode is left of {label}; {report.loss_text()}{loaded.hint}")
    return loaded, report


def require_distinct(sources: Sequence[tuple[str, Sequence[Part], Sequence[str]]]) -> None:
    """Refuse a recording that is there twice: held out in one place, it would be trained on in the other.

    Args:
        sources: for each its name in the recipe, its parts, and the digests of their contents (`Loaded.contents`).

    Raises:
        SourceError: a part is in two sources, under whatever path, or is a copy of another one.
    """
    known: dict[Hashable, tuple[int, str]] = {}
    for number, (key, parts, contents) in enumerate(sources):
        for part, content in zip(parts, contents, strict=True):
            # Parts of one source may share a file, as CALVIN's do, but no two have the same content.
            tokens = [content, *(file.resolve() for file in part.files)]
            name = f"{part.home / part.name} of {key}"
            for token in tokens:
                other, first = known.setdefault(token, (number, name))
                if first != name and (token == content or other != number):
                    raise SourceError(
                        f"{name} is the same recording as {first}: what is held out for validation in one place would "
                        "be trained on in the other. Name it once (sources may have weights), or remove the copy"
                    )
