# SPDX-License-Identifier: Apache-2.0
"""Figures as files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` so that the file is either there as a whole or not at all."""
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(unfinished, path)
