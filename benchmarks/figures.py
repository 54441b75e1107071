# SPDX-License-Identifier: Apache-2.0
"""Write the results of a benchmark, and make docs/figures.md from all of them.

python benchmarks/SCRIPT.py --json benchmarks/results/SCRIPT.json
python benchmarks/figures.py                                        # benchmarks/results -> docs/figures.md
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PACKAGES = ("vla_ros", "torch", "pytorch-lightning", "numpy", "opencv-python", "mujoco", "ros-rclpy", "rosbags")

# The sections of docs/figures.md, and the result files in each; files not listed here come last.
SECTIONS = {
    "Success on the simulated arm": (
        "demo", "live", "what_the_policy_uses", "loop", "chains", "delays",
    ),
    "CALVIN and LIBERO": ("calvin", "calvin_chains", "libero_training", "libero_tasks"),
    "Policies": ("ablations", "forward_prediction", "pretrained_encoders", "policy_step", "policy_matrix"),
    "Demonstrations and training": ("store", "formats", "fuzz_bags", "train_step"),
    "Diagnosis": ("replay_faults", "recording_faults"),
    "Running on the robot": (
        "guard_stops", "faults", "latency", "smoothness", "image_transport", "soak", "lifecycle_cycles",
    ),
    "The simulator": ("expert_success", "control_rate"),
}  # fmt: skip
OTHERS = "Others"
# Pictures that are drawn from a result file.
IMAGES = {
    "demo": "![Both cameras, the command and the outcome of two rollouts of each task](images/contact_sheet.png)",
    "delays": "![Success against inference delay, with 95 % intervals](images/delays.png)",
}


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
    """Write one table of results with the machine and versions that produced it.

    Args:
        runs: measurements behind each figure (episodes, repetitions); `note` says of what.
        note: what was measured, and how.
        rows: cells as printed; `details` holds what else a script might read.
        command: how to reproduce it (default: this process's command line).
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


def page(results: dict[str, dict[str, Any]]) -> str:
    """Return docs/figures.md for the result files `results`, by name."""
    listed = {name for names in SECTIONS.values() for name in names}
    sections = {**SECTIONS, OTHERS: tuple(name for name in results if name not in listed)}
    found = {title: [name for name in names if name in results] for title, names in sections.items()}
    found = {title: names for title, names in found.items() if names}
    usual = _most_common([content["versions"] for content in results.values()])
    lines = [
        "# Figures",
        "",
        "Every measured figure of this package, with what was measured, how, and the command that reproduces it.",
        "",
        "`python benchmarks/figures.py` makes this page from `benchmarks/results/`, which the commands below write. "
        "Times depend on the machine: compare only figures of one run. Intervals are 95 % intervals, Wilson's for "
        f"rates. Versions unless stated otherwise: {_listed(usual)}.",
        "",
    ]
    for title, names in found.items():
        lines.append(f"- {_link(title)}")
        lines += [f"  - {_link(results[name]['title'])}" for name in names]
    for title, names in found.items():
        lines += ["", f"## {title}"]
        for name in names:
            lines += ["", table(results[name], usual, IMAGES.get(name, ""))]
    return "\n".join(lines) + "\n"


def table(content: dict[str, Any], usual: dict[str, str], image: str = "") -> str:
    """Return a table under its heading, with what was measured above it and how to reproduce it below."""
    machine, versions = content["machine"], content["versions"]
    lines = [f"### {content['title']}", ""]
    lines += [content["note"], ""] if content["note"] else []
    lines += ["| " + " | ".join(content["columns"]) + " |", "|" + "---|" * len(content["columns"])]
    lines += ["| " + " | ".join(row) + " |" for row in content["rows"]]
    lines += ["", image] if image else []
    other = {name: number for name, number in versions.items() if number != usual.get(name)}
    made = "".join(f"; {_listed(other)}" if other else "")
    runs = f"{content['runs']} run" + "s" * (content["runs"] != 1)
    lines += ["", f"    {content['command']}", ""]
    return "\n".join(
        [*lines, f"{content['date']}, {runs}, {machine['cpus']} CPU cores ({machine['processor']}){made}."]
    )


def anchor(title: str) -> str:
    """Return the fragment that links to a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _link(title: str) -> str:
    return f"[{title}](#{anchor(title)})"


def _most_common(versions: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return the version of each package that most results were made with."""
    counts: dict[str, Counter[str]] = {}
    for each in versions:
        for name, number in each.items():
            counts.setdefault(name, Counter())[number] += 1
    return {name: count.most_common(1)[0][0] for name, count in counts.items()}


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """Return the CPU model as Linux names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of result files")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs" / "figures.md", help="page to write")
    arguments = parser.parse_args()
    results = {path.stem: json.loads(path.read_text()) for path in sorted(arguments.results.glob("*.json"))}
    arguments.output.write_text(page(results))
    print(f"{arguments.output}: {len(results)} tables")


if __name__ == "__main__":
    main()
