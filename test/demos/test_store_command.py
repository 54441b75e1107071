# SPDX-License-Identifier: Apache-2.0
"""`vla store` tells what is of use from what is not, and removes only the latter."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vla_ros import cli
from vla_ros.demos.bag_source import bag_parts
from vla_ros.demos.store import load_parts


@pytest.fixture
def bags(demonstration, robot, spec, timing, tmp_path: Path) -> Path:
    """Two bags, decoded."""
    bag = demonstration.write(tmp_path / "bags" / "a")
    shutil.copytree(bag, tmp_path / "bags" / "b")
    load_parts(bag_parts([tmp_path / "bags"], robot, spec, timing), workers=1)
    return tmp_path / "bags"


def states(bags: Path, *arguments: str) -> dict[str, str]:
    file = bags.parent / "list.json"
    assert cli.main(["store", str(bags), "--json", str(file), *arguments]) == 0
    return {row["name"]: row["state"] for row in json.loads(file.read_text())}


def test_what_is_current_is_listed_and_survives_cleaning(bags: Path, capsys) -> None:
    assert states(bags, "--clean") == {"a": "current", "b": "current"}
    assert "2 entries" in (printed := capsys.readouterr().out) and "removed 0 entries" in printed
    assert states(bags / "a") == states(bags / ".vla_store") == states(bags)


def test_what_no_run_will_use_is_removed(bags: Path, robot, spec, timing) -> None:
    episodes, *_ = load_parts(bag_parts([bags], robot, spec, timing), workers=1)
    kept = np.array(episodes[0].images["static"])
    shutil.rmtree(bags / "a")
    with (bags / "b" / "metadata.yaml").open("a") as file:
        file.write("\n")
    store = bags / ".vla_store"
    (store / "c-1.partial").mkdir()
    (store / "c-1.partial" / "actions").write_bytes(b"half")
    (store / "d-1.lock").touch()
    assert states(bags, "--clean") == {
        "a": "its recording is gone",
        "b": "its recording was changed",
        "c-1.partial": "left by a killed run",
        "d-1.lock": "left by a killed run",
    }
    assert not list(store.iterdir())
    np.testing.assert_array_equal(episodes[0].images["static"], kept)  # a run that has it open goes on


def test_a_bag_that_only_looks_changed_is_current(bags: Path) -> None:
    (bags / "a" / "metadata.yaml").touch()
    assert states(bags)["a"] == "current"


def test_entries_of_other_code_are_stale(bags: Path, monkeypatch) -> None:
    monkeypatch.setattr("vla_ros.demos.store_command.reader_digest", lambda: "newer")
    assert states(bags) == {"a": "made by another version", "b": "made by another version"}


def test_what_a_living_process_makes_is_left_alone(bags: Path) -> None:
    store = bags / ".vla_store"
    (store / "c-1.partial").mkdir()
    with (store / "c-1.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert states(bags, "--clean", "--all")["c-1.partial"] == "being made"
        assert sorted(path.name for path in store.iterdir()) == ["c-1.lock", "c-1.partial"]


def test_no_store_and_all_without_clean_are_errors(tmp_path: Path, bags: Path, capsys) -> None:
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    assert cli.main(["store", str(tmp_path / "empty" / "inner")]) == 2
    assert "there is no store at" in capsys.readouterr().err
    assert cli.main(["store", str(bags), "--all"]) == 2
    assert "--all is for --clean" in capsys.readouterr().err
