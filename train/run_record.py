# SPDX-License-Identifier: Apache-2.0
"""The record of a run in its folder: which code made it, on which data, and how its metrics developed."""

from __future__ import annotations

import csv
import importlib.metadata
import platform
import subprocess
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import vla_ros
from vla_ros.datasets.episode import Episode
from vla_ros.files import atomic_write, write_json, write_text

CODE, CHANGES, DATA = "code.json", "code.diff", "data.json"
METRICS, EARLIER_METRICS = "metrics.csv", "metrics.before.csv"
LIBRARIES = ("torch", "pytorch-lightning", "transformers", "numpy")


def write_code_state(folder: Path, source: Path | None = None) -> None:
    """Write code.json: library versions and, if the package is in a git repository, its commit and new files.

    Uncommitted changes go to code.diff, which is absent without changes.

    Args:
        source: the package's folder; None: where it is imported from.
    """
    source = source or Path(vla_ros.__file__).resolve().parent
    versions = {"vla_ros": vla_ros.__version__, "python": platform.python_version()}
    versions |= {name: _version(name) for name in LIBRARIES}
    tracked = _git(source, "ls-files", "__init__.py")  # an environment's packages may lie in another repository
    commit = _git(source, "rev-parse", "HEAD") if tracked else None
    changes = _git(source, "diff", "HEAD", "--", ":/") if commit else None
    new_files = _git(source, "ls-files", "--others", "--exclude-standard", "--full-name", ":/") if commit else None
    state = {
        "versions": versions,
        "commit": commit,
        "changed": bool(changes or new_files),
        "new_files": (new_files or "").splitlines(),
    }
    write_json(folder / CODE, state)
    (folder / CHANGES).unlink(missing_ok=True)
    if changes:
        write_text(folder / CHANGES, changes + "\n")


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:  # installed without pip, by a vendor's image for instance
        return "unknown"


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of git, or None without git, repository or commit."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, errors="replace", timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip("\n") if done.returncode == 0 else None


def write_data_summary(folder: Path, sets: Mapping[str, Sequence[Episode]]) -> None:
    """Write data.json: counts of each set of episodes (training, validation, rehearsed), for `vla report`."""
    write_json(folder / DATA, {name: count_episodes(episodes) for name, episodes in sets.items() if episodes})


def count_episodes(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return the number of episodes, in total, by task and by outcome; of frames and of distinct commands."""
    return {
        "episodes": len(episodes),
        "frames": sum(map(len, episodes)),
        "tasks": dict(sorted(Counter(episode.task for episode in episodes).items())),
        "commands": len({command for episode in episodes for command in episode.commands}),
        "outcomes": dict(Counter(episode.outcome for episode in episodes)),
    }


def keep_metrics(folder: Path) -> None:
    """Append metrics.csv of an interrupted run to metrics.before.csv, as the logger would delete it."""
    now, before = folder / METRICS, folder / EARLIER_METRICS
    if not now.exists():
        return
    rows = [*_rows(before), *_rows(now)]
    columns = sorted({name for row in rows for name in row})
    with atomic_write(before) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    now.unlink()


def _rows(file: Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


def draw_curves(folder: Path, image: Path) -> None:
    """Plot every metric of a run over the steps, training and validation together.

    Includes what an interrupted run had logged; for a step done twice, its last values count.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    series: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in [*_rows(folder / EARLIER_METRICS), *_rows(folder / METRICS)]:
        for key, value in row.items():
            phase, _, name = key.partition("/")
            if name and value:
                series[name][phase][int(row["step"])] = float(value)
    if not series:
        return
    figure, axes = pyplot.subplots(len(series), 1, figsize=(8, 2.2 * len(series)), sharex=True, squeeze=False)
    for axis, (name, phases) in zip(axes[:, 0], sorted(series.items()), strict=True):
        for phase, points in sorted(phases.items()):
            axis.plot(*zip(*sorted(points.items()), strict=True), label=phase)
        axis.set_ylabel(name)
        axis.legend()
        axis.grid(alpha=0.3)
    axes[-1, 0].set_xlabel("step")
    figure.tight_layout()
    with atomic_write(image) as partial:
        figure.savefig(partial, dpi=80, format="png")
    pyplot.close(figure)
