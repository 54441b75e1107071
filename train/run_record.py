# SPDX-License-Identifier: Apache-2.0
"""Which code a run was made with, in files of its run folder: versions, the commit, and what was changed since."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path

import vla_ros

CODE, CHANGES = "code.json", "code.diff"
LIBRARIES = ("torch", "pytorch-lightning", "transformers", "numpy")


def write_code_state(folder: Path, source: Path | None = None) -> None:
    """Write ``folder``/code.json: versions and, where the package is of a git repository, its commit.

    What differs from the commit is in code.diff, and its new files are listed; code.diff is not there without changes.

    Args:
        source: the package's folder; None: where it is imported from.
    """
    source = source or Path(vla_ros.__file__).resolve().parent
    versions = {"vla_ros": vla_ros.__version__, "python": platform.python_version()}
    versions |= {name: _version(name) for name in LIBRARIES}
    tracked = _git(source, "ls-files", "__init__.py")  # a package in an environment may lie in somebody's repository
    commit = _git(source, "rev-parse", "HEAD") if tracked else None
    changes = _git(source, "diff", "HEAD", "--", ":/") if commit else None
    new_files = _git(source, "ls-files", "--others", "--exclude-standard", "--full-name", ":/") if commit else None
    state = {
        "versions": versions,
        "commit": commit,
        "changed": bool(changes or new_files),
        "new_files": (new_files or "").splitlines(),
    }
    (folder / CODE).write_text(json.dumps(state, indent=2) + "\n")
    (folder / CHANGES).unlink(missing_ok=True)
    if changes:
        (folder / CHANGES).write_text(changes + "\n")


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:  # it was installed without pip, by a vendor's image for instance
        return "unknown"


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git says, or None where there is no git, no repository or no commit."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, errors="replace", timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip("\n") if done.returncode == 0 else None
