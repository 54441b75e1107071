# SPDX-License-Identifier: Apache-2.0
"""Find the files that ship with the code (config/, launch/).

Not with importlib.resources: ROS expects these folders in share/, outside of the Python package.
"""

from __future__ import annotations

from pathlib import Path

from vla_ros.errors import UserError


def share_directory() -> Path:
    """Return the directory with the ``config/`` and ``launch/`` of the code that is running.

    For a source checkout, and so for an editable or symlinked install, this is the checkout: edits there take effect.
    Any other install has these files in ``share/vla_ros`` under its prefix. Searching from the code, and not in the
    ament index or ``sys.prefix``, never pairs this code with the files of another install.

    Raises:
        UserError: this install has neither.
    """
    package = Path(__file__).resolve().parent
    candidates = [package.parent, *(prefix / "share" / "vla_ros" for prefix in package.parents)]
    for directory in candidates:
        if (directory / "package.xml").is_file():
            return directory
    raise UserError(
        f"vla_ros in {package} was installed without config/ and launch/ (there is no share/vla_ros above it); "
        "reinstall it from a checkout with pip or colcon"
    )


def path(relative: str) -> Path:
    """Return the absolute path of a shipped file or folder such as ``config/robots``; UserError if it is missing."""
    share = share_directory()
    found = share / relative
    if found.exists():
        return found
    folder = found.parent
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    raise UserError(
        f"vla_ros ships no {relative!r}; {folder.relative_to(share)}/ contains {', '.join(names) or 'nothing'} "
        f"(in {share})"
    )
