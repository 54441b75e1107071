# SPDX-License-Identifier: Apache-2.0
"""The documentation: links lead somewhere, and generated pages match what generates them."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from vla_ros import robot
from vla_ros.observations.observation import Reason
from vla_ros.runtime.safety import governor, guard

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def load(script: str) -> ModuleType:
    """Import a script of the repository by its path."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {load("benchmarks/figures.py").anchor(heading) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_to_files_and_headings(page: Path) -> None:
    known: dict[Path, set[str]] = {}
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in known.setdefault(target, anchors(target)), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`((?:vla_ros|train|test|config|benchmarks|docs|launch)/[\w./-]+\.\w+)", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_reason_to_stop_is_explained() -> None:
    reasons = {*guard.DISARMING, *guard.IDLE, *governor.FAULTS, *get_args(Reason), *robot.CHECKS}
    told = set(re.findall(r"`([a-z_]+)`", (ROOT / "docs/safety.md").read_text()))
    assert reasons <= told


def test_the_planner_on_its_page_is_the_one_that_the_tests_run() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/planner.md").read_text(), flags=re.DOTALL)
    assert (ROOT / "docs/examples/planner.py").read_text().endswith(shown)


def test_figures_show_the_results_as_they_are() -> None:
    results = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks/results").glob("*.json"))}
    assert load("benchmarks/figures.py").page(results) == (ROOT / "docs/figures.md").read_text()


def test_the_architecture_is_drawn_as_its_script_says() -> None:
    assert load("docs/images/architecture.py").svg() == (ROOT / "docs/images/architecture.svg").read_text()
