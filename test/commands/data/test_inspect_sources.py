# SPDX-License-Identifier: Apache-2.0
"""`vla inspect` on data sets and recipes: how they are read, what is missing, and the command that trains on them."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml
from rlds_records import steps
from tiny_datasets import write_calvin, write_rlds

from vla_ros import resources
from vla_ros.cli import main
from vla_ros.contract import PROPRIOCEPTION_UNITS
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.inspection.source_inspection import SAMPLED_SHARDS
from vla_ros.train.demonstrations import read_demonstrations
from vla_ros.train.initial_policy import observation_spec
from vla_ros.train.recipes import load_config

if TYPE_CHECKING:
    from recordings import BagBuilder

BUDGET = {"name": "tiny", "contract": {"cameras": [{"name": "static", "height": 16, "width": 16}], "control_hz": 5}}


@pytest.fixture
def split(tmp_path: Path) -> Path:
    relative = np.tile([1.0, 0, 0, 0, 0, 0, 1], (60, 1))
    segments = [(0, 29, "open the drawer", "open_drawer"), (30, 59, "push", "push")]
    return write_calvin(tmp_path / "task_D_D" / "training", segments, relative, np.zeros((60, 3)))


def inspected(path: Path, status: int = 0, *options: str) -> dict:
    out = Path(str(path) + ".report.json")
    assert main(["inspect", str(path), "--json", str(out), *options]) == status
    return json.loads(out.read_text())


def trained_on(command: str) -> list[Episode]:
    """What the printed command would train on."""
    _, fit, recipe, *options = shlex.split(command)
    assert fit == "fit" and set(options[::2]) <= {"--set"}
    config = load_config(Path(recipe), options[1::2])
    (source,) = read_demonstrations(config, *observation_spec(config))
    assert set(config.augment.shift_px) <= {camera.name for camera in config.contract.cameras}
    return list(source.episodes)


@pytest.mark.parametrize("name", ["droid", "bridge_dataset", "jaco_play", "fractal20220817_data"])
def test_a_data_set_is_summed_up_and_the_command_that_trains_on_it_works(tmp_path: Path, name: str) -> None:
    """They differ in rate, cameras and states: what the shipped recipe requires and they lack is set."""
    folder = write_rlds(tmp_path / "1.0.0", name, [[steps(name), steps(name)]])
    report = inspected(folder)
    assert name in report["source"]["read_as"] and f"{name}-train" in report["source"]["read_as"]
    assert len(report["episodes"]) == 2 and report["language"] == {"Pick the cup": report["frames"]}
    assert report["actions"]["vx"]["mean"] == pytest.approx(0.1, abs=1e-3)
    assert "beyond_limits_fraction" not in report["motion"]  # no robot is known
    assert len(trained_on(report["source"]["train"])) == 2


def test_of_a_large_data_set_some_shards_are_decoded_and_all_on_request(tmp_path: Path, capsys) -> None:
    folder = write_rlds(tmp_path / "1.0.0", "jaco_play", [[steps("jaco_play", text=f"task {n}")] for n in range(9)])
    (folder / "jaco_play-train.tfrecord-00003-of-00009").unlink()
    report = inspected(folder)
    assert report["source"]["shards"] == [SAMPLED_SHARDS, 8]
    assert {"task 0", "task 8"} <= report["language"].keys() and len(report["language"]) == SAMPLED_SHARDS
    printed = capsys.readouterr().out
    assert "4 of 8 shards, --all for every one" in printed
    assert "8 of 9 shards of jaco_play are there" in printed and "Missing: 00003" in printed
    assert len(inspected(folder, 0, "--all")["language"]) == 8


def test_both_splits_of_calvin_are_told_apart(split: Path) -> None:
    write_calvin(split.parent / "validation", [(80, 99, "a", "a")], np.zeros((20, 7)), np.zeros((20, 3)), first=80)
    report = inspected(split.parent)
    assert report["source"]["read_as"] == "CALVIN: training, validation (held out)"
    assert [row["from"] for row in report["episodes"]] == ["", "", "held out"]


def test_calvin_without_language_is_inspected_as_motion_and_the_command_says_so(split: Path) -> None:
    shutil.rmtree(split / "lang_annotations")
    report = inspected(split)
    assert any("motion without commands" in note for note in report["source"]["notes"])
    assert '"motion_only":true' in report["source"]["train"]
    assert [episode.command for episode in trained_on(report["source"]["train"])] == [""]


def test_a_lerobot_data_set_is_read_with_its_mapping_or_its_features_are_listed(tmp_path: Path) -> None:
    pytest.importorskip("av")
    writer = pytest.importorskip("vla_ros.datasets.lerobot.writer")
    states = tuple(PROPRIOCEPTION_UNITS)
    proprioception = np.tile(np.float32([0.1, 0.2, 0.3, 1, 0, 0, 0, 1, 0, 0.5]), (12, 1))
    images = {"top": np.zeros((12, 32, 32, 3), np.uint8)}
    labels = np.tile([0.1, 0, 0, 0, 0, 0, 1.0], (12, 1))
    folder = tmp_path / "set"
    with writer.LeRobotWriter.create(folder, Fraction(10), states, "arm") as out:
        out.add(Episode(images, proprioception, labels, "push", "push", "success", "a#0", 0, np.arange(12)))
    report = inspected(folder)
    assert report["source"]["read_as"] == f"LeRobot, with {folder}/meta/vla_ros.json"
    assert report["source"]["rate_hz"] == 10 and report["cameras"]["top"]["dark"] == 12
    assert [set(episode.images) for episode in trained_on(report["source"]["train"])] == [{"top"}]
    (folder / "meta" / "vla_ros.json").unlink()
    (problem,) = inspected(folder, 1)["problems"]
    assert "meta/vla_ros.json is missing" in problem["problem"] and "observation.images.top" in problem["problem"]


def test_a_data_set_that_cannot_be_read_is_a_problem_said_once(tmp_path: Path, capsys) -> None:
    folder = write_rlds(tmp_path / "1.0.0", "kuka", [[]])
    (problem,) = inspected(folder, 1)["problems"]
    assert "'kuka' is unknown" in problem["problem"]
    printed = capsys.readouterr().out
    assert printed.count(f"{folder}: the data set") == 1 and f"{folder}: {folder}" not in printed


def test_what_is_neither_a_bag_nor_a_data_set_is_said_to_be_neither(tmp_path: Path, capsys) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert "is not a bag and contains none" in (printed := capsys.readouterr().err)
    assert "no data set (RLDS, CALVIN, LeRobot) and no recipe (.json) either" in printed


def test_a_recipe_is_checked_source_by_source_and_the_fix_is_a_command_that_works(split: Path, tmp_path: Path) -> None:
    folder = write_rlds(tmp_path / "jaco", "jaco_play", [[steps("jaco_play")]])
    sources = [{"format": "calvin", "path": str(split)}, {"format": "rlds", "path": str(folder)}]
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({**BUDGET, "data": {"sources": sources, "workers": 1}}))
    calvin, jaco = inspected(recipe, 1)["reports"]
    assert not calvin["problems"] and calvin["source"]["control_hz"] == 5
    (problem,) = jaco["problems"]
    assert problem["bag"] == "data.sources[1]" and "has no gripper state" in problem["problem"]
    _, _, path, _, setting = shlex.split(problem["fix"])
    config = load_config(Path(path), [setting])
    assert len(read_demonstrations(config, *observation_spec(config))) == 2


def test_the_bags_of_a_recipe_are_read_with_its_robot(demonstration: BagBuilder, tmp_path: Path, capsys) -> None:
    bag = demonstration.write(tmp_path / "bag")
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({**BUDGET, "data": {"bags": [str(bag)]}}))
    report = inspected(recipe)
    assert report["frames"] == 10  # at the recipe's 5 Hz
    assert report["source"]["read_as"].endswith("config/robots/tabletop.yaml")
    assert report["source"]["train"] == f"vla fit {recipe}"
    assert "bags, with the robot file" in capsys.readouterr().out


def test_the_command_that_trains_on_bags_works_with_their_robot_s_cameras(
    demonstration: BagBuilder, tmp_path: Path
) -> None:
    robot = yaml.safe_load((resources.path("config/robots") / "tabletop.yaml").read_text())
    del robot["cameras"]["wrist"]
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(robot))
    bag = demonstration.write(tmp_path / "bag")
    report = inspected(bag, 0, "--robot", str(tmp_path / "robot.yaml"))
    assert report["source"]["read_as"] == f"bags, with the robot file {tmp_path / 'robot.yaml'}"
    (episode,) = trained_on(report["source"]["train"])
    assert set(episode.images) == {"static"}
    report = inspected(demonstration.without("language_command").write(tmp_path / "mute"), 1)
    assert "train" not in report["source"]


def test_inspecting_a_bag_does_not_wait_for_torch(demonstration: BagBuilder, tmp_path: Path) -> None:
    code = "import sys; from vla_ros.cli import main; status = main(sys.argv[1:]); assert 'torch' not in sys.modules"
    bag = demonstration.write(tmp_path / "bag")
    subprocess.run([sys.executable, "-c", code, "inspect", str(bag)], check=True, capture_output=True)


def test_bags_and_data_sets_can_be_inspected_together(demonstration: BagBuilder, split: Path, tmp_path: Path) -> None:
    bag, out = demonstration.write(tmp_path / "bag"), tmp_path / "report"
    assert main(["inspect", str(bag), str(split), "--json", f"{out}.json", "--html", f"{out}.html"]) == 0
    reports = json.loads(Path(f"{out}.json").read_text())["reports"]
    assert [report["source"]["format"] for report in reports] == ["bags", "calvin"]
    text = Path(f"{out}.html").read_text()
    assert "tabletop.yaml" in text and "CALVIN: training" in text
