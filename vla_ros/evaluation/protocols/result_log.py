# SPDX-License-Identifier: Apache-2.0
"""Results of an evaluation on disk, one line each as they arrive, so that an interrupted evaluation can resume.

A folder holds `settings.json`, which identifies the evaluation, and one `results-RANK.jsonl` for each rank.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vla_ros import files
from vla_ros.evaluation.errors import EvaluationError

SETTINGS = "settings.json"


class ResultLog:
    """The results in `folder` of an evaluation with `settings`; this process appends as `rank`."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], rank: int = 0) -> None:
        self.folder = folder
        self._own = folder / f"results-{rank}.jsonl"
        _write_or_check(folder / SETTINGS, json.loads(json.dumps(dict(settings))))
        if self._own.exists():  # truncate what a killed process left half written
            data = self._own.read_bytes()
            with self._own.open("r+b") as opened:
                opened.truncate(data.rfind(b"\n") + 1)

    def add(self, result: Mapping[str, Any]) -> None:
        """Append one result."""
        with self._own.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(result)) + "\n")

    def results(self) -> Iterator[dict[str, Any]]:
        """Yield the results of all ranks, except a line that another process is still writing."""
        for file in sorted(self.folder.glob("results-*.jsonl")):
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(keepends=True), 1):
                if not line.endswith("\n"):
                    continue
                try:
                    yield json.loads(line)
                except ValueError:
                    raise EvaluationError(
                        f"{file}, line {number} is not JSON; delete that line to run its rollout again"
                    ) from None


def _write_or_check(file: Path, settings: dict[str, Any]) -> None:
    if not file.exists():
        files.write_text(file, json.dumps(settings, indent=2) + "\n")
        return
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise EvaluationError(f"{file} is not JSON; delete it, or choose another folder") from None
    for key in {**written, **settings}:
        if written.get(key) != settings.get(key):
            raise EvaluationError(
                f"{file.parent} holds an evaluation with another {key}: {written.get(key)!r}, not "
                f"{settings.get(key)!r}; repeat its arguments to resume it, or choose another folder"
            )
