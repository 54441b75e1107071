# SPDX-License-Identifier: Apache-2.0
"""The command line documents itself, and a user error is one line without a traceback."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from vla_ros import __version__, cli
from vla_ros.errors import UserError


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A subcommand ``vla polish`` whose ``run`` tests can replace."""
    module = ModuleType("polish", "Polish the arm.\n\nUntil it shines.")
    module.add_arguments = lambda parser: parser.add_argument("--times", type=int, default=1, help="how often")
    module.run = lambda args: args.times
    monkeypatch.setitem(sys.modules, "polish", module)
    monkeypatch.setattr(cli, "COMMANDS", {"polish": ("polish", "make it shine"), "absent": ("no_such_module", "...")})
    return module


def test_exit_status_is_what_the_command_returns(command: ModuleType) -> None:
    assert cli.main(["polish", "--times", "3"]) == 3


def test_user_error_is_one_line_without_traceback(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def run(args: argparse.Namespace) -> int:
        raise UserError("times must be at least 1; got -1")

    command.run = run
    assert cli.main(["polish"]) == 2
    assert capsys.readouterr().err == "vla: error: times must be at least 1; got -1\n"


def test_bug_keeps_its_traceback(command: ModuleType) -> None:
    def run(args: argparse.Namespace) -> int:
        raise ZeroDivisionError

    command.run = run
    with pytest.raises(ZeroDivisionError):
        cli.main(["polish"])


@pytest.mark.parametrize(
    ("package", "option"),
    [
        ("rclpy.node", "-e '.[ros]'"),
        ("cv2.dnn", "-e '.[opencv]'"),
        ("mujoco", "-e '.[sim]'"),
        ("tensorboard", "-e '.[train]'"),
        ("torch", "-e . in a checkout"),
        ("rosbags.highlevel", "-e . in a checkout"),
    ],
)
def test_missing_package_names_the_extra_that_brings_it(
    command: ModuleType, capsys: pytest.CaptureFixture[str], package: str, option: str
) -> None:
    def run(args: argparse.Namespace) -> int:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    command.run = run
    assert cli.main(["polish"]) == 2
    assert f"run pip install {option}" in capsys.readouterr().err


def test_every_required_package_has_an_entry_in_extras() -> None:
    """Otherwise a missing package would be a traceback."""
    setup = (Path(cli.__file__).parents[1] / "setup.py").read_text()
    required = re.findall(r'"([\w-]+)', setup.partition("install_requires=[")[2].partition("]")[0])
    modules = {"pyyaml": "yaml", "pillow": "PIL"}
    names = {modules.get(name, name.replace("-", "_")) for name in required if name != "setuptools"}
    assert names == {name for name, extra in cli.EXTRAS.items() if not extra}


def test_without_opengl_the_error_names_the_packages(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    code = compile("def load(): None.eglQueryString", "/x/site-packages/OpenGL/raw/EGL/_errors.py", "exec")
    exec(code, namespace := {})
    command.run = lambda args: namespace["load"]()
    assert cli.main(["polish"]) == 2
    assert "libegl1" in capsys.readouterr().err
    command.run = lambda args: None.absent
    with pytest.raises(AttributeError):
        cli.main(["polish"])


def test_missing_module_that_no_extra_brings_is_a_bug(command: ModuleType) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        cli.main(["absent"])


def test_interrupt_is_status_130(command: ModuleType) -> None:
    def run(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    command.run = run
    assert cli.main(["polish"]) == 130


@pytest.mark.parametrize("buffered", [{}, {"PYTHONUNBUFFERED": "1"}])
def test_output_that_nobody_reads_to_the_end_leaves_no_traceback(buffered: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | buffered
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "vla_ros.cli", "launch", "policy", "--show-args"]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, "")


def test_another_broken_pipe_is_a_bug(command: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: argparse.Namespace) -> None:
        raise BrokenPipeError

    command.run = run
    with open(os.devnull, "w") as anywhere:
        monkeypatch.setattr(sys, "stdout", anywhere)
        with pytest.raises(BrokenPipeError):
            cli.main(["polish"])


def test_help_of_a_command_is_its_docstring(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["polish", "--help"])
    assert exit_info.value.code == 0
    out = capsys.readouterr().out
    assert "Until it shines." in out and "how often" in out


def test_help_lists_every_command_and_imports_none(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert "polish" in out and "make it shine" in out and "absent" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"vla_ros {__version__}\n"
