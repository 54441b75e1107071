# SPDX-License-Identifier: Apache-2.0
"""Results of an evaluation on disk, one line each as it comes, so that an interrupted one goes on where it stopped.

A folder holds `settings.json`, which says what was evaluated how, and `results-RANK.jsonl` of each rank that took part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vla_ros.errors import UserError

SETTINGS = "settings.json"


class RecordError(UserError):
    """A folder of results that can't be gone on with."""


class Record:
    """The results in `folder` of an evaluation with `settings`; this process writes as `rank`.

    Raises:
        RecordError: the folder holds another evaluation, or a line of it is damaged.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], rank: int = 0) -> None:
        self.folder = folder
        self._own = folder / f"results-{rank}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        _settle(folder / SETTINGS, json.loads(json.dumps(dict(settings))))
        _drop_half_line(self._own)

    def add(self, result: Mapping[str, Any]) -> None:
        """Write one result down."""
        with self._own.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(result)) + "\n")

    def results(self) -> Iterator[dict[str, Any]]:
        """Yield the results of all ranks; a line that another process is just writing is left out."""
        for file in sorted(self.folder.glob("results-*.jsonl")):
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(keepends=True), 1):
                if not line.endswith("\n"):
                    continue
                try:
                    yield json.loads(line)
                except ValueError:
                    raise RecordError(f"{file}, line {number} is no JSON; remove that line, it is run again") from None


def _settle(file: Path, settings: dict[str, Any]) -> None:
    """Write the settings down, or check that they are what is written."""
    if not file.exists():
        partial = file.with_name(f"{file.name}.partial")
        partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        partial.replace(file)
        return
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise RecordError(f"{file} is no JSON; give another folder, or remove this one") from None
    other = [key for key in {**written, **settings} if written.get(key) != settings.get(key)]
    if other:
        key = other[0]
        raise RecordError(
            f"{file.parent} holds an evaluation with another {key}: {written.get(key)!r}, not {settings.get(key)!r}; "
            "give the same arguments to go on with it, or another folder"
        )


def _drop_half_line(file: Path) -> None:
    """Cut off what a killed process had half written."""
    if not file.exists():
        return
    data = file.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with file.open("r+b") as opened:
            opened.truncate(whole)
