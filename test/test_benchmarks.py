# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks make of their measurements. To measure is no test: that needs a quiet machine."""

from __future__ import annotations

import ast
import importlib
import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

MS = 1_000_000
SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a script of benchmarks/ by name."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1] / "benchmarks"), *sys.path])
    return importlib.import_module


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_finds_what_it_measures(path):
    imported = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    for statement in imported:
        if (statement.module or "").startswith("vla_ros"):
            module = importlib.import_module(statement.module)
            for name in statement.names:
                assert hasattr(module, name.name) or importlib.import_module(f"{statement.module}.{name.name}")


def test_what_a_node_adds_is_how_late_its_observation_and_its_twist_are_on_the_grid(benchmark):
    latency = benchmark("latency")
    # At 50 Hz: tick 1000 is at 20 s; its picture was stamped 4 ms before, and looked at 13 ms after (due: 10 ms).
    again = 2000  # the code of tick 1000 comes again then
    trace = [(1000, 19_996 * MS, 20_013 * MS, 20_014 * MS), (again, 39_990 * MS, 40_010 * MS, 40_011 * MS)]
    stamps_ns = [20_021 * MS, 40_020 * MS, 40_040 * MS]
    heard = latency.Heard(stamps_ns, codes=[0, 0, 7], frames=[""] * 3)  # nobody planned the last one in this time
    added, whole = latency.answers_ms(heard, trace)
    assert added == pytest.approx([3 + 1, 0]) and whole == pytest.approx([25, 30])


def test_the_percentiles_of_a_table_are_medians_over_the_runs(benchmark):
    latency = benchmark("latency")
    names = ("relay", "timer", *(f"{policy}: {figure}" for policy in ("no cost", "checkpoint")
             for figure in ("added", "whole", "jitter", "missed", "ticks")))  # fmt: skip
    results = {name: [[1.0], [2.0], [9.0]] for name in names}
    rows = {row[0]: row[1:] for row in latency.table(results)}
    assert rows["camera stamp to twist, bare relay"] == ("2.00", "2.00")
    assert rows["ticks missed, policy: checkpoint"][0] == "12 of 12"


def test_a_soak_names_what_has_grown_and_every_stop_that_it_did_not_ask_for(benchmark):
    soak = benchmark("soak")
    before, after = soak.Look(100.0, 8, 4, 10, 2), soak.Look(101.5, 8, 5, 9, 2)
    compared = {"policy_node": soak.compare([before] * soak.LOOKS + [after] * soak.LOOKS)}
    assert soak.wrong(compared, Counter({"no_command": 3, "stale": 1})) == [
        "stopped for stale: 1 times",
        "policy_node: memory_mb has grown from 100 to 101.5",
        "policy_node: sockets has grown from 4 to 5",
    ]
    little = soak.Look(100.9, 8, 4, 10, 2)
    assert soak.wrong({"policy_node": soak.compare([before] * 5 + [little] * 5)}, Counter()) == []


def test_a_soak_tells_when_a_stop_was_that_nobody_asked_for(benchmark):
    soak = benchmark("soak")
    before, now = Counter(no_command=3, stale=1), Counter(no_command=9, stale=3)
    (event,) = soak.unexpected(now, before, passed_s=90.0)
    assert event.startswith("stale, 2 times, in the rollout before 1.5 min; load of a core ")
    assert soak.unexpected(now, now, passed_s=91.0) == []


def test_a_look_counts_threads_files_and_sockets_of_a_process(benchmark, tmp_path):
    import socket

    soak = benchmark("soak")
    before = soak.look(os.getpid())
    with (tmp_path / "file").open("w"), socket.socket():
        after = soak.look(os.getpid())
    assert (after.files - before.files, after.sockets - before.sockets) == (1, 1)
    assert after.threads >= 1 and after.memory_mb > 1


def test_libero_s_reports_become_one_row_a_task(benchmark):
    scripts = benchmark("libero_tasks")
    report = {
        "settings": {"suite": "libero_goal", "checkpoint": "runs/a b", "rollouts": 4, "max_time": 15.0},
        "tasks": {"turn_on_the_stove": {"successes": 3, "rollouts": 4, "interval": [0.301, 0.954]}},
    }
    assert scripts.rows(report) == [("libero_goal", "turn_on_the_stove", "3/4", "30% to 95%")]
    assert scripts.command(report).startswith("vla evaluate 'a b' --env libero --suite libero_goal --rollouts 4")


def test_success_against_delay_is_told_for_each_checkpoint_beside_its_own_without_delay(benchmark, tmp_path):
    evaluations = benchmark("evaluations")

    def report(checkpoint, *successes):
        conditions = [
            {"executor": "full_chunk", "delay_ms": delay, "delay_ticks": 1 + delay // 100,
             "busy_ticks": delay // 100 or 1, "successes": good, "rollouts": 20, "success_rate": good / 20,
             "interval": (good / 20 - 0.01, good / 20 + 0.01)}
            for delay, good in zip((0, 200), successes, strict=True)
        ]  # fmt: skip
        settings = {"checkpoint": checkpoint, "tasks": ["push_left"], "rollouts": 20, "delays": [0.0, 200.0],
                    "executors": ["full_chunk"]}  # fmt: skip
        return {"settings": settings, "conditions": conditions}

    evaluations.delays([report("a", 20, 10), report("b", 10, 9)], tmp_path / "delays.json")
    table = json.loads((tmp_path / "delays.json").read_text())
    assert [(row[0], row[2], row[5], row[-1]) for row in table["rows"]] == [
        ("a", "0", "20/20", "100%"), ("a", "200", "10/20", "50%"),
        ("b", "0", "10/20", "100%"), ("b", "200", "9/20", "90%"),
    ]  # fmt: skip
    assert table["runs"] == 20 and "vla evaluate b --tasks push_left --rollouts 20 --delays 0 200" in table["command"]
    evaluations.plot(table, tmp_path / "plots" / "delays.png")
    assert (tmp_path / "plots" / "delays.png").stat().st_size > 5000
