# SPDX-License-Identifier: Apache-2.0
"""The contract survives its file and refuses everything that it does not know."""

from __future__ import annotations

import dataclasses
import json

import pytest

from vla_ros import resources
from vla_ros.contract import (
    ActionSpace,
    Camera,
    ContractError,
    Language,
    PolicyContract,
    Proprioception,
    Provenance,
    Timing,
)
from vla_ros.robot import load_robot


def make_contract() -> PolicyContract:
    return PolicyContract(
        cameras=(Camera("static", 64, 64), Camera("wrist", 48, 64, resize="pad")),
        proprioception=Proprioception(("ee_x", "gripper_opening"), ("m", "1"), (0.4, 0.5), (0.1, 0.3)),
        language=Language("do: {command}", "sha256:abc", 16),
        timing=Timing(control_hz=10.0, history=4, chunk=8),
        action=ActionSpace(low=(-0.3,) * 6, high=(0.3,) * 6),
        provenance=Provenance("compact", "1", "lstm", "sha256:def", "0.1.0", ("left_arm", "right_arm")),
    )


def test_a_contract_survives_its_file(tmp_path):
    contract = make_contract()
    contract.save(tmp_path / "contract.json")
    assert PolicyContract.load(tmp_path / "contract.json") == contract


def test_a_contract_without_proprioception_survives_its_file(tmp_path):
    contract = dataclasses.replace(make_contract(), proprioception=None)
    contract.save(tmp_path / "contract.json")
    assert PolicyContract.load(tmp_path / "contract.json") == contract
    assert contract.observation_spec.streams == ("static", "wrist", "language")


@pytest.mark.parametrize("control_hz", [7.5, 12.5, 15.0, 29.97, 30.0, 30_000 / 1001, 60.0])
def test_any_control_rate_survives_the_file_and_keeps_its_grid(tmp_path, control_hz):
    timing = Timing(control_hz, history=4, chunk=8, settle_s=0.01)
    dataclasses.replace(make_contract(), timing=timing).save(tmp_path / "contract.json")
    loaded = PolicyContract.load(tmp_path / "contract.json").timing
    assert loaded == timing
    assert loaded.grid.start_ns(54_000_000_001) == timing.grid.start_ns(54_000_000_001)


def test_a_contract_from_before_is_written_as_it_was_read():
    path = resources.path("config/checkpoints/tabletop") / "contract.json"
    contract = PolicyContract.load(path)
    assert contract.timing.grid.period_ns == 100_000_000
    assert contract.to_json() == path.read_text()


def test_an_unknown_key_is_refused_by_its_name_and_the_nearest_is_suggested(tmp_path):
    data = make_contract().to_dict()
    data["timing"]["control_hzz"] = 5.0
    with pytest.raises(ContractError, match=r"timing: unknown key 'control_hzz'; did you mean 'control_hz'\?"):
        PolicyContract.from_dict(data)


@pytest.mark.parametrize(
    "section, key",
    [(None, "action"), ("timing", "settle_s"), ("provenance", "robots"), ("language", "tokenizer"), (None, "version")],
)
def test_a_missing_key_is_refused_by_its_name_even_where_code_has_a_default(section, key):
    data = make_contract().to_dict()
    del (data[section] if section else data)[key]
    with pytest.raises(ContractError, match=f"missing key '{key}'"):
        PolicyContract.from_dict(data)


@pytest.mark.parametrize(
    "path, value, message",
    [
        (("timing", "control_hz"), "ten", "must be of type float"),
        (("timing", "control_hz"), float("nan"), "must be of type float"),
        (("timing", "control_hz"), 0.0, r"in \[0\.01, 1000\]"),
        (("timing", "history"), 2.5, "must be of type int"),
        (("timing", "settle_s"), 0.2, "one control period"),
        (("action", "frame"), "world", "'base', 'tool'"),
        (("action", "gripper"), "+1 open", "0 closed, 1 open"),
        (("action", "high"), [0.1] * 5, "six each"),
        (("action", "low"), [0.5] * 6, "low < high"),
        (("language", "prompt_template"), "do it", "{command}"),
        (("cameras", 1, "resize"), "squash", "stretch"),
        (("proprioception", "units"), ["mm", "1"], "'m', '1'"),
        (("provenance", "robots"), "panda", "must be a list"),
        (("provenance", "robots"), ["panda", "panda"], "different names, none empty"),
        (("provenance", "robots"), [""], "different names, none empty"),
        (("version",), 99, "version must be 1 to 2; .*got 99"),
        (("version",), 0, "version must be 1 to 2; .*got 0"),
        (("version",), True, "must be of type int"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(path, value, message):
    data = json.loads(json.dumps(make_contract().to_dict()))
    target = data
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(ContractError, match=message.replace("{", r"\{").replace("+", r"\+")):
        PolicyContract.from_dict(data)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ContractError, match=r"contract.json is missing"):
        PolicyContract.load(tmp_path / "contract.json")
    (tmp_path / "contract.json").write_text("{")
    with pytest.raises(ContractError, match="is not JSON"):
        PolicyContract.load(tmp_path / "contract.json")
    (tmp_path / "contract.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ContractError, match="is not JSON"):
        PolicyContract.load(tmp_path / "contract.json")


def test_two_cameras_of_one_name_are_refused():
    with pytest.raises(ContractError, match="must be unique"):
        dataclasses.replace(make_contract(), cameras=(Camera("static", 8, 8), Camera("static", 8, 8)))


def test_prompts_ignore_case_and_spacing():
    language = Language("do: {command}", "t", 8)
    assert language.prompt("  Pick  UP the block ") == "do: pick up the block"


def version_1() -> dict:
    data = make_contract().to_dict()
    del data["provenance"]["robots"]
    return {**data, "version": 1}


def test_a_contract_of_version_1_names_no_robot_and_is_otherwise_the_same():
    old, now = version_1(), make_contract()
    provenance = dataclasses.replace(now.provenance, robots=())
    assert PolicyContract.from_dict(old) == dataclasses.replace(now, provenance=provenance)
    assert old["version"] == 1 and "robots" not in old["provenance"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"provenance": {**version_1()["provenance"], "robots": ["panda"]}}, "unknown key 'robots' in version 1"),
        ({"provenance": None}, "provenance must be an object"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_an_old_contract_is_read_as_strictly(change, message):
    with pytest.raises(ContractError, match=message):
        PolicyContract.from_dict({**version_1(), **change})


def check_robot(robot: str, *robots: str, any_robot: bool = False) -> str:
    contract = make_contract()
    contract = dataclasses.replace(contract, provenance=dataclasses.replace(contract.provenance, robots=robots))
    return contract.check_robot(robot, "ckpt", any_robot=any_robot, override="any_robot:=true")


def test_one_of_the_robots_of_the_recordings_needs_no_words():
    assert check_robot("panda", "panda") == check_robot("ur5", "panda", "ur5") == ""


def test_another_robot_is_refused_unless_told_to_use_it_anyway():
    problem = "checkpoint ckpt was trained on recordings of robot 'panda' and 'ur5', but robot is 'franka'"
    with pytest.raises(ContractError, match=f"^{problem}; use a checkpoint of that robot, or pass any_robot:=true$"):
        check_robot("franka", "panda", "ur5")
    assert check_robot("franka", "panda", "ur5", any_robot=True) == f"{problem}; used anyway (any_robot:=true)"


def test_recordings_of_an_unknown_robot_are_accepted_and_that_is_said():
    assert "does not say which robot its recordings were of; used on 'franka'" in check_robot("franka")


def test_the_shipped_checkpoint_is_of_the_simulated_arm():
    contract = PolicyContract.load(resources.path("config/checkpoints/tabletop") / "contract.json")
    assert contract.provenance.robots == (load_robot("tabletop").name,)


@pytest.mark.parametrize("name", ["", ".", "..", "../static", "a/b", "a\\b", "/static", "static\n", "a\0"])
def test_a_camera_is_named_like_a_file(name):
    with pytest.raises(ContractError, match=r"camera: name must be the name of a file"):
        Camera(name, 8, 8)
