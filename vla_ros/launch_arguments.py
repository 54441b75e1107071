# SPDX-License-Identifier: Apache-2.0
"""The arguments of the launch files, and the processes they stand for: for launch/*.launch.py and for `vla launch`.

An argument is a text, as typed in `NAME:=VALUE`.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_ros import bringup, schema
from vla_ros.bringup import Process
from vla_ros.errors import UserError

TRUTHS = {"true": True, "1": True, "false": False, "0": False}  # in any case, as in launch's own conditions
Values = Mapping[str, str]  # by the argument's name


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument; `choices`: all texts that are allowed, if not any is."""

    name: str
    default: str
    description: str
    choices: tuple[str, ...] | None = None


SHARED = (
    Argument("namespace", "", "Namespace of all nodes and topics"),
    Argument("use_sim_time", "false", "Use simulated time from /clock: true or false"),
    Argument("log_level", "info", "Minimum severity of logged messages", ("debug", "info", "warn", "error", "fatal")),
    Argument("use_respawn", "false", "Restart a node that ends unexpectedly: true or false"),
)
_ROBOT = Argument("robot", "", "Robot file: a path, or a name in config/robots; empty: tabletop")
_PARAMS_FILE = Argument("params_file", "", "Parameter file (YAML), e.g. config/policy.yaml")
_AUTOSTART = Argument("autostart", "", "Configure and activate on start: true or false; empty: true")
_DRY_RUN = Argument("dry_run", "", "Publish only on guard/preview: true or false; empty: false")
POLICY = (
    Argument("checkpoint", "", "Checkpoint folder (model.safetensors, ...); empty: the shipped one"),
    _ROBOT,
    Argument("any_robot", "", "Accept a checkpoint of another robot: true or false; empty: false"),
    Argument("device", "", "Compute device: auto, cpu, cuda, cuda:1, ...; empty: auto"),
    Argument("precision", "", "Precision of the backbone; empty: auto", ("", "auto", "fp32", "bf16", "fp16")),
    Argument("compile", "", "Acceleration of inference; empty: auto", ("", "auto", "none", "compile", "cuda_graph")),
    _PARAMS_FILE,
    _AUTOSTART,
    Argument("arm_on_start", "", "Move on the first command: true or false; empty: false"),
    _DRY_RUN,
)
RECORD = (
    Argument("output", "", "Folder of the bag (required; must not exist)"),
    Argument("robot", "tabletop", "Robot file: a path, or a name in config/robots"),
    Argument("task", "", "Task name to write into the episode markers"),
    Argument("writer", "auto", "Who writes the bag", ("auto", "rosbag2", "vla_ros")),
)
DEMO = (
    Argument("rollouts", "2", "Rollouts per task; 0: none, keep running"),
    Argument("tasks", "all", "Task names separated by spaces, or all"),
    Argument("checkpoint", "", "Checkpoint folder; empty: the shipped one"),
    Argument("task", "pick_up_red", "Task of the first scene"),
    Argument("seed", "0", "Seed of the first scene"),
    Argument("output", "runs/demo", "Folder for results.json, the video and the contact sheet"),
    Argument("view", "false", "Show both cameras in a window: true or false"),
)
BAG = (
    Argument("bag", "", "Bag to play: a folder or file (required)"),
    Argument("robot", "tabletop", "Robot file: a path, or a name in config/robots"),
    *(
        each
        for each in POLICY
        if each.name in ("checkpoint", "any_robot", "device", "precision", "compile", "params_file")
    ),
    Argument("loop", "false", "Begin anew at the end of the recording: true or false"),
    Argument("use_sim_time", "true", "Run on the recording's time; false only if no stream has stamp: header"),
    *(each for each in SHARED if each.name != "use_sim_time"),
)
# By the launch file's name.
ARGUMENTS = {
    "policy": (*POLICY, *SHARED),
    "guard": (_ROBOT, _PARAMS_FILE, _AUTOSTART, _DRY_RUN, *SHARED),
    "record": (*RECORD, *SHARED),
    "demo": (*DEMO, *SHARED),
    "bag": BAG,
}


def parse(name: str, assignments: Sequence[str]) -> dict[str, str]:
    """Return all arguments of a launch file, from its defaults and NAME:=VALUE.

    Raises:
        UserError: an assignment is malformed, names no argument, or its value is not among the choices.
    """
    arguments = {argument.name: argument for argument in ARGUMENTS[name]}
    values = {argument.name: argument.default for argument in arguments.values()}
    for assignment in assignments:
        key, sign, value = assignment.partition(":=")
        if not sign:
            raise UserError(f"arguments must be NAME:=VALUE; got {assignment!r}")
        if key not in arguments:
            raise UserError(f"{name} has no argument {key!r}; {schema.suggestion(key, arguments)}")
        choices = arguments[key].choices
        if choices is not None and value not in choices:
            raise UserError(f"{key} must be one of {', '.join(filter(None, choices))}; got {value!r}")
        values[key] = value
    return values


def refuse_misspelt(name: str, given: Iterable[str], parameters: Collection[str]) -> None:
    """Refuse what somebody must have meant for us; launch accepts any NAME:=VALUE and drops what it does not know.

    Other names may belong to a launch file that includes ours.

    Args:
        name: of the launch file.
        given: names of the arguments on its command line.
        parameters: of its nodes.

    Raises:
        UserError: a name is similar to one of our arguments, or is a parameter.
    """
    arguments = [argument.name for argument in ARGUMENTS[name]]
    for key in (key for key in given if key not in arguments):
        if key in parameters:
            raise UserError(f"{name}.launch.py has no argument {key!r}: it is a parameter, set it in a params_file")
        if difflib.get_close_matches(key, arguments, n=1, cutoff=0.75):
            raise UserError(f"{name}.launch.py has no argument {key!r}; {schema.suggestion(key, arguments)}")


def truth(values: Values, name: str) -> bool:
    """Return the value of a flag, as ROS users type it: `true`, `True` or `1`.

    Raises:
        UserError: it is neither true nor false.
    """
    text = values[name]
    if text.lower() not in TRUTHS:
        raise UserError(f"{name} must be true or false; got {text!r}")
    return TRUTHS[text.lower()]


def given(values: Values, names: Sequence[str], flags: Sequence[str]) -> dict[str, Any]:
    """Return the arguments that are not empty: texts called `names`, and `flags`."""
    filled = [name for name in (*names, *flags) if values[name]]
    return {name: truth(values, name) if name in flags else values[name] for name in filled}


def whole_number(values: Values, name: str) -> int:
    """Return the value of an argument that counts something.

    Raises:
        UserError: it is not a whole number of at least 0.
    """
    text = values[name]
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"{name} must be a whole number of at least 0; got {text!r}")
    return int(text)


def policy(values: Values) -> list[Process]:
    """Return the guard and the policy.

    Raises:
        UserError: arguments that contradict each other, or a file that would not be read.
    """
    texts, flags = ("robot", "device", "precision", "compile"), ("any_robot", "autostart", "arm_on_start", "dry_run")
    parameters = given(values, texts, flags)
    if truth(values, "use_respawn"):
        if parameters.get("arm_on_start"):
            raise UserError(
                "use_respawn and arm_on_start must not both be true: after a crash, the node would move the arm by "
                "itself; omit one of them, and arm it with the service guard/arm"
            )
        parameters["arm_on_start"] = False  # whatever params_file says
    return bringup.policy(values["checkpoint"], values["params_file"], **parameters)


def dry_run(values: Values) -> list[Process]:
    """Return guard and policy for a recording: nothing can move, and nobody is there to arm or hold a deadman."""
    parameters = given(values, ("robot", "device", "precision", "compile"), ["any_robot"])
    alone = {"autostart": True, "dry_run": True, "arm_on_start": True, "require_enable": False}
    return bringup.policy(values["checkpoint"], values["params_file"], **parameters, **alone)


def guard(values: Values) -> list[Process]:
    """Return the guard."""
    parameters = given(values, ["robot"], ["autostart", "dry_run"])
    return [bringup.guard(values["params_file"], **parameters)]


def recorder(values: Values, *, write: bool) -> list[Process]:
    """Return the recorder, which writes the bag or only marks its episodes.

    Raises:
        UserError: there is no output, or it exists.
    """
    output = values["output"]
    if not output:
        raise UserError("output is required: the folder of the bag, e.g. output:=bags/NAME")
    if Path(output).exists():
        raise UserError(f"output {output} already exists; choose another folder, or move it away")
    return [bringup.recorder(output, robot=values["robot"], task=values["task"], write=write)]


def demo(values: Values) -> list[Process]:
    """Return the simulated robot, the guard and the policy.

    Raises:
        UserError: simulated time, which nothing publishes here, or a seed that is no number.
    """
    if truth(values, "use_sim_time"):
        raise UserError(
            "use_sim_time must be false: nothing here publishes /clock, the simulated arm runs in real time; to use "
            "simulated time, start simulator_node with publish_clock:=true and policy.launch.py with use_sim_time:=true"
        )
    return bringup.demo(values["checkpoint"], task=values["task"], seed=whole_number(values, "seed"))


def demo_command(values: Values, namespace: str, rules: Sequence[str]) -> list[str]:
    """Return the command that runs the rollouts on a running demo; empty for none. `rules`: ROS arguments."""
    rollouts = whole_number(values, "rollouts")
    if not rollouts:
        return []
    command = [sys.executable, "-m", "vla_ros.cli", "demo", "--attach", "--rollouts", str(rollouts)]
    command += ["--tasks", *values["tasks"].split(), "--output", values["output"], "--namespace", namespace]
    command += ["--view"] if truth(values, "view") else []
    return [*command, "--ros-args", *rules] if rules else command
