# SPDX-License-Identifier: Apache-2.0
"""The short version of benchmarks/fuzz_bags.py: damaged bags give a readable error or a part, nothing else."""

from __future__ import annotations

import collections
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


pytest.importorskip("pyarrow")
pytest.importorskip("av")


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))  # it imports `figures` from beside it
    try:
        spec = importlib.util.spec_from_file_location("fuzz_bags", BENCHMARKS / "fuzz_bags.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def test_undamaged_bags_are_read_completely(fuzz: ModuleType, tmp_path: Path) -> None:
    for name, bag in fuzz.seeds(tmp_path).items():
        recorded = fuzz.contents(bag) if name in fuzz.CONTAINERS else []
        assert fuzz.attempt(bag, name, recorded, "", fuzz.robot()) == "whole", name


def test_damaged_bags_give_an_error_or_a_part_and_no_partial_store_entry(
    fuzz: ModuleType, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)  # hundreds of them take long on a busy disk
    bags, robot = fuzz.seeds(tmp_path), fuzz.robot()
    recorded = {name: fuzz.contents(bags[name]) for name in fuzz.CONTAINERS}
    outcomes: collections.Counter[str] = collections.Counter()
    for number in range(120):
        container, kind = fuzz.damaged(number, bags, tmp_path / "damaged")
        outcome = fuzz.attempt(tmp_path / "damaged", container, recorded.get(container, []), kind, robot)
        assert outcome in ("whole", "part", "error"), f"bag {number} ({container}, {kind}): {outcome}"
        outcomes[outcome] += 1
    assert min(outcomes.values()) > 5 and len(outcomes) == 3, outcomes
