# SPDX-License-Identifier: Apache-2.0
"""The short version of benchmarks/fuzz_bags.py: damaged bags give an error in words or a part, never anything else."""

from __future__ import annotations

import collections
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


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


def test_bags_that_are_not_damaged_are_read_as_a_whole(fuzz: ModuleType, tmp_path: Path) -> None:
    for bag in fuzz.seeds(tmp_path).values():
        assert fuzz.attempt(bag, fuzz.contents(bag), "", fuzz.robot()) == "whole"


def test_damaged_bags_give_an_error_or_a_part(fuzz: ModuleType, tmp_path: Path) -> None:
    bags, robot = fuzz.seeds(tmp_path), fuzz.robot()
    recorded = {name: fuzz.contents(bag) for name, bag in bags.items()}
    outcomes: collections.Counter[str] = collections.Counter()
    for number in range(150):
        container, kind = fuzz.damaged(number, bags, tmp_path / "damaged")
        outcome = fuzz.attempt(tmp_path / "damaged", recorded[container], kind, robot)
        assert outcome in ("whole", "part", "error"), f"bag {number} ({container}, {kind}): {outcome}"
        outcomes[outcome] += 1
    assert min(outcomes.values()) > 10 and len(outcomes) == 3, outcomes
