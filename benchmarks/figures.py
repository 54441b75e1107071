# SPDX-License-Identifier: Apache-2.0
"""The figures of the benchmarks: how a script writes them, and docs/figures.md, which is made from what they wrote.

python benchmarks/SCRIPT.py --json benchmarks/results/SCRIPT.json
python benchmarks/figures.py                                          all of benchmarks/results to docs/figures.md
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PACKAGES = ("vla_ros", "torch", "pytorch-lightning", "numpy", "opencv-python", "mujoco", "ros-rclpy", "rosbags")


def write(
    path: Path,
    *,
    title: str,
    runs: int,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    note: str = "",
    details: Any = None,
    command: str = "",
) -> None:
    """Write one table of figures with what it was made on.

    Args:
        runs: measurements behind a figure (episodes, repetitions); `note` says of what.
        rows: as printed; `details` holds what else a script would read.
        command: how to make it again (default: this process's command line).
    """
    script = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(shlex.quote, sys.argv[1:])])
    content = {
        "title": title,
        "command": command or script,
        "date": datetime.date.today().isoformat(),
        "machine": {"platform": platform.platform(), "processor": _processor(), "cpus": os.cpu_count()},
        "versions": {"python": platform.python_version(), **_versions()},
        "runs": runs,
        "note": note,
        "columns": list(columns),
        "rows": [list(map(str, row)) for row in rows],
        "details": details,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def markdown(content: dict[str, Any]) -> str:
    """One section of docs/figures.md."""
    lines = [f"## {content['title']}", ""]
    lines += ["| " + " | ".join(content["columns"]) + " |", "|" + "---|" * len(content["columns"])]
    lines += ["| " + " | ".join(row) + " |" for row in content["rows"]]
    machine, versions = content["machine"], content["versions"]
    made = ", ".join(f"{name} {number}" for name, number in versions.items())
    lines += ["", *([content["note"], ""] if content["note"] else [])]
    lines += [f"    {content['command']}", ""]
    made_on = f"{machine['cpus']} CPU cores ({machine['processor']}); {made}"
    return "\n".join([*lines, f"{content['date']}, runs: {content['runs']}, {made_on}."])


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """The model of the CPU, as Linux calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the scripts' JSON files")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs" / "figures.md")
    arguments = parser.parse_args()
    sections = [markdown(json.loads(path.read_text())) for path in sorted(arguments.results.glob("*.json"))]
    head = (
        "# Figures\n\nMade by `python benchmarks/figures.py` from `benchmarks/results/`, which the commands below "
        "wrote. Times depend on the machine; compare what was measured in one run."
    )
    arguments.output.write_text("\n\n".join([head, *sections]) + "\n")
    print(f"{arguments.output}: {len(sections)} tables")


if __name__ == "__main__":
    main()
