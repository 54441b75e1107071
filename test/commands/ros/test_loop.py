# SPDX-License-Identifier: Apache-2.0
"""What `vla loop` refuses up front, and which files it leaves alone."""

from __future__ import annotations

import json

import pytest

from vla_ros.cli import main
from vla_ros.commands.ros import record_demo, ros_evaluation


class Started(Exception):
    """The first evaluation would start now."""


@pytest.fixture
def loop(tmp_path, monkeypatch):
    def start(*_, **__):
        raise Started

    monkeypatch.setattr(ros_evaluation, "run", start)
    monkeypatch.setattr(record_demo, "record", start)
    return lambda *arguments: main(
        ["loop", "--checkpoint", str(tmp_path), "--output", str(tmp_path / "loop"), *arguments]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rollouts", "0"], "--rollouts must be at least 1; got 0"),
        (["--old-rollouts", "-1"], "--old-rollouts must be at least 0; got -1"),
        (["--rehearse", "-1"], "--rehearse must be at least 0; got -1"),
        (["--episodes", "0"], "--episodes must be at least 1; got 0"),
        (["--episodes", "9999"], "would use seeds from 10000"),
        (["--speed", "1000"], "--speed must be between 0.1 and 100; got 1000"),
        (["--recipe", "no.json"], "--recipe no.json does not exist"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(loop, tmp_path, capsys, arguments, message):
    assert loop(*arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_refused_and_left_alone(loop, tmp_path, capsys):
    bag = tmp_path / "loop" / "bags" / "monday" / "metadata.yaml"
    bag.parent.mkdir(parents=True)
    bag.touch()
    assert loop() == 2
    assert "contains files but no loop.json" in capsys.readouterr().err
    assert bag.exists()


def test_results_of_an_earlier_loop_are_removed(loop, tmp_path):
    with pytest.raises(Started):
        loop()
    folder = tmp_path / "loop"
    assert json.loads((folder / "loop.json").read_text())["task"] == "push_away_red"
    for name in ("bags", "fit"):
        (folder / name).mkdir()
    (folder / "results.json").touch()
    (folder / "notes.txt").touch()
    with pytest.raises(Started):
        loop()
    assert {path.name for path in folder.iterdir()} == {"loop.json", "notes.txt"}
