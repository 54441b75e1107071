# SPDX-License-Identifier: Apache-2.0
"""Where the files that ship beside the code (config/, launch/) lie."""

from __future__ import annotations

from pathlib import Path

from vla_ros.errors import UserError


def share_directory() -> Path:
    """Return the directory that holds ``config/`` and ``launch/`` of the very code that is running.

    A source checkout, and so an editable or symlinked install, is its own share directory: editing a file there takes
    effect. Any other install puts the files in ``share/vla_ros`` under the prefix that the package lies in. Searching
    from the code, instead of asking the ament index or ``sys.prefix``, never pairs this code with another install's
    files.

    Raises:
        UserError: this install has neither.
    """
    package = Path(__file__).resolve().parent
    if (package.parent / "package.xml").is_file():
        return package.parent
    for prefix in package.parents:
        if (prefix / "share" / "vla_ros" / "package.xml").is_file():
            return prefix / "share" / "vla_ros"
    raise UserError(
        f"vla_ros is installed in {package} without its config/ and launch/ files (no share/vla_ros above it); "
        "install it again with pip or colcon from a checkout"
    )


def path(relative: str) -> Path:
    """Return the absolute path of a shipped file or directory, for instance ``path("config/robots")``.

    Raises:
        UserError: there is no such file; the message lists what lies beside it.
    """
    share = share_directory()
    found = share / relative
    if found.exists():
        return found
    beside = found.parent
    names = sorted(entry.name for entry in beside.iterdir()) if beside.is_dir() else []
    raise UserError(
        f"vla_ros ships no {relative!r} in {share}; "
        + (
            f"{beside.relative_to(share)}/ holds: {', '.join(names) or 'nothing'}"
            if beside.is_dir()
            else f"there is no {beside.relative_to(share)}/ either"
        )
    )
