# SPDX-License-Identifier: Apache-2.0
"""What must hold of a Lightning checkpoint before a run is resumed from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from vla_ros.errors import first_line
from vla_ros.train.config import ConfigError

# Of the state of Lightning's ModelCheckpoint, which deletes the file or folder at some of these paths.
_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


def check_resumable(resume: Path) -> None:
    """Raise ConfigError if `resume` holds pickled objects, is damaged, or names other files than checkpoints.

    Lightning deletes what the checkpoint calls the earlier best, and reads what it calls the best. Its own reader would
    run pickles of a sharded run.
    """
    try:
        saved = torch.load(resume, map_location="meta", weights_only=True, mmap=True)
        callbacks = dict(saved["callbacks"])
    except Exception as error:  # pickle's, zip's or torch's, depending on the damage
        raise ConfigError(
            f"--resume is {resume}, which is damaged or no checkpoint of a run ({first_line(error)}); use the "
            "last.ckpt in a run folder"
        ) from None
    for path in _paths(callbacks):
        # Not necessarily in `folder`: a run that was moved names its old one, where Lightning deletes nothing.
        if ".." in Path(path).parts or "://" in path or not path.endswith(".ckpt"):
            raise ConfigError(
                f"--resume is {resume}, which would have Lightning read or delete {path!r}; use the last.ckpt that "
                "the run itself has written"
            )


def _paths(callbacks: Mapping[str, Any]) -> Iterator[str]:
    """Yield every path in the states of ModelCheckpoint."""
    for state in callbacks.values():
        if isinstance(state, Mapping):
            yield from (str(state[name]) for name in _PATHS if state.get(name))
            yield from map(str, state.get("best_k_models") or ())
