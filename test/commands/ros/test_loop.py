# SPDX-License-Identifier: Apache-2.0
"""What `vla loop` refuses up front, and what it leaves alone."""

from __future__ import annotations

import json

import pytest

from vla_ros.cli import main
from vla_ros.commands.ros import live, record_demo


class Started(Exception):
    """The first measurement would begin now."""


@pytest.fixture
def loop(tmp_path, monkeypatch):
    def start(*_, **__):
        raise Started

    monkeypatch.setattr(live, "run", start)
    monkeypatch.setattr(record_demo, "record", start)
    return lambda *arguments: main(
        ["loop", "--checkpoint", str(tmp_path), "--output", str(tmp_path / "loop"), *arguments]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rollouts", "0"], "--rollouts is 0; allowed: 1 or more"),
        (["--old-rollouts", "-1"], "--old-rollouts is -1"),
        (["--rehearse", "-1"], "--rehearse is -1"),
        (["--episodes", "0"], "--episodes is 0"),
        (["--episodes", "9999"], "reach the seeds from 10000"),
        (["--speed", "1000"], "--speed is 1000; allowed: 0.1 to 100"),
        (["--recipe", "no.json"], "--recipe is no.json, and there is no such file"),
    ],
)
def test_what_would_only_fail_after_minutes_is_refused_before_anything_is_written(
    loop, tmp_path, capsys, arguments, message
):
    assert loop(*arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_somebody_else_s_files_is_refused_and_left_alone(loop, tmp_path, capsys):
    bag = tmp_path / "loop" / "bags" / "monday" / "metadata.yaml"
    bag.parent.mkdir(parents=True)
    bag.touch()
    assert loop() == 2
    assert "holds files but no loop.json" in capsys.readouterr().err
    assert bag.exists()


def test_what_an_earlier_loop_left_is_removed(loop, tmp_path):
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
