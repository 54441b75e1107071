# SPDX-License-Identifier: Apache-2.0
"""The package's metadata is consistent, and its files name no machine or registry."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

import vla_ros
from vla_ros import bringup, cli, resources
from vla_ros.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
NAMES_OF_A_MACHINE = re.compile(rb"/(?:work|root|tmp|home|mnt|opt/pypi[\w-]*)/[\w.-]|file:///(?!\{)")
REGISTRY_HOSTS = re.compile(
    rb"(?:pypi\.org|pythonhosted\.org|download\.pytorch\.org|pypi\.nvidia\.com|index-url\s+http|huggingface\.co/)"
)
TEXT_SUFFIXES = {"", ".py", ".xml", ".cfg", ".toml", ".md", ".json", ".yaml", ".yml", ".sh", ".txt"}


def setup_argument(option: str) -> str:
    """Return the answer of setup.py to ``--version`` and the like, as queried by colcon."""
    result = subprocess.run(
        [sys.executable, "setup.py", "-q", option], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return result.stdout.strip().splitlines()[-1]


@functools.cache
def setup_options() -> dict[str, Any]:
    """Return what setup.py passes to setuptools."""
    code = "import setuptools, runpy, json\nsetuptools.setup = lambda **options: print(json.dumps(options))\n"
    result = subprocess.run(
        [sys.executable, "-c", code + "runpy.run_path('setup.py')"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def console_scripts() -> dict[str, str]:
    """Return the executables that setup.py declares: name -> ``module:function``."""
    return dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in setup_options()["entry_points"]["console_scripts"])


def minimum_versions(*requirements: str) -> dict[str, str]:
    """Return what pip must install at least: name -> version, or "" for any."""
    matches = [re.match(r"([\w.-]+)(?:\[\w+\])?(?:>=([\d.]+))?", line) for line in requirements]
    return {match[1]: match[2] or "" for match in matches if match}


def make(*arguments: str, sourced: str) -> subprocess.CompletedProcess[str]:
    """Run make as a user would who has sourced this distribution ("" for none): without what an outer make exports."""
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT, env={"PATH": os.environ["PATH"], "ROS_DISTRO": sourced},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def tracked_files() -> list[Path]:
    """Return the files that git tracks or would track; none in an unpacked archive."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [file for file in files if file.is_file()]


def test_package_xml_describes_an_ament_python_package() -> None:
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    assert package.get("format") == "3"
    assert package.findtext("name") == "vla_ros"
    assert package.findtext("export/build_type") == "ament_python"
    assert (ROOT / package.find("license").get("file")).is_file()  # type: ignore[union-attr, operator]
    depends = [element.text for element in package if element.tag.endswith("depend")]
    assert len(depends) == len(set(depends))


def test_versions_agree() -> None:
    declared = ElementTree.parse(ROOT / "package.xml").getroot().findtext("version")
    assert declared == vla_ros.__version__ == setup_argument("--version")


def test_rosdep_and_pip_ask_for_the_same_versions() -> None:
    options = setup_options()
    for_pip = minimum_versions(*options["install_requires"], *itertools.chain(*options["extras_require"].values()))
    names = {"opencv": "opencv-python", "pil": "pillow", "yaml": "pyyaml"}
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    keys = {element.text.partition("python3-")[2]: element for element in package if "python3-" in (element.text or "")}
    for_rosdep = {names.get(key, key): element.get("version_gte", "") for key, element in keys.items() if key}
    assert for_rosdep.items() <= for_pip.items()
    comment = (ROOT / "package.xml").read_text().partition("install with pip")[2].partition("-->")[0]
    by_hand = set(re.findall(r"[a-z][\w.-]*\w", comment))
    assert set(minimum_versions(*options["install_requires"])) <= by_hand | set(for_rosdep)


@pytest.mark.parametrize("file", sorted((ROOT / "config/constraints").glob("*.txt")), ids=lambda file: file.stem)
def test_the_libraries_of_a_distribution_are_new_enough(file: Path) -> None:
    options = setup_options()
    at_least = minimum_versions(*options["install_requires"], *itertools.chain(*options["extras_require"].values()))
    pinned = dict(line.split("==") for line in file.read_text().splitlines() if not line.startswith("#"))
    assert {"numpy", "opencv-python"} <= pinned.keys() <= at_least.keys()
    for name, version in pinned.items():
        assert as_numbers(version) >= as_numbers(at_least[name]), f"{name} {version} is older than {at_least[name]}"


def as_numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def test_pip_never_brings_another_opencv_over_a_distribution_s() -> None:
    options = setup_options()
    brought = {extra for extra, lines in options["extras_require"].items() if any("opencv" in line for line in lines)}
    assert brought == {"ros", "ros-jazzy", "opencv"}  # none of which is for a machine with a distribution
    assert not any("opencv" in line for line in options["install_requires"])


@pytest.mark.parametrize(("name", "target"), console_scripts().items())
def test_console_script_has_its_function(name: str, target: str) -> None:
    module, _, function = target.partition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, f"executable {name}: no module {module}"
    assert re.search(rf"^def {function}\(", Path(spec.origin).read_text(), re.MULTILINE)


@pytest.mark.parametrize(("command", "module"), [(name, entry[0]) for name, entry in cli.COMMANDS.items()])
def test_command_has_its_module(command: str, module: str) -> None:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, f"vla {command}: no module {module}"
    text = Path(spec.origin).read_text()
    assert "def add_arguments(" in text and "def run(" in text


def test_the_train_package_is_a_link() -> None:
    link = ROOT / "vla_ros" / "train"
    assert link.is_symlink()
    assert os.readlink(link) == "../train"


def test_tracked_files_name_no_machine_and_no_registry() -> None:
    files = tracked_files()
    if not files:
        pytest.skip("not a git checkout")
    for file in files:
        if file == Path(__file__) or file.suffix not in TEXT_SUFFIXES or file.stat().st_size > 1_000_000:
            continue
        text = file.read_bytes()
        for pattern in (NAMES_OF_A_MACHINE, REGISTRY_HOSTS):
            found = pattern.search(text)
            assert found is None, f"{file.relative_to(ROOT)} names {found[0]!r}"  # type: ignore[index]


def test_shipped_files_are_those_beside_the_running_code() -> None:
    assert resources.path("package.xml") == ROOT / "package.xml"


def test_a_missing_shipped_file_is_named_with_its_neighbors() -> None:
    with pytest.raises(UserError, match=r"config/no_such\.yaml.*config/ contains .*robots"):
        resources.path("config/no_such.yaml")


def test_share_directory_is_found_under_the_prefix_of_the_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "prefix/lib/python3/site-packages/vla_ros/resources.py"
    monkeypatch.setattr(resources, "__file__", str(module))
    with pytest.raises(UserError, match="installed without config/"):
        resources.share_directory()
    share = tmp_path / "prefix/share/vla_ros"
    share.mkdir(parents=True)
    (share / "package.xml").touch()
    assert resources.share_directory() == share


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("sourced", "options", "environment", "installed"),
    [
        ("", [], ".venv", "-q  -e '.[ros,sim,train,dev]'"),
        ("", ["ROS=jazzy"], ".venv-jazzy", "-q  -e '.[ros-jazzy,sim,train,dev]'"),
        ("", ["CONSTRAINTS=config/constraints/ubuntu-24.04.txt"], ".venv-ubuntu-24.04", "24.04.txt -e '.[ros,sim,"),
        ("humble", [], ".venv", "-c config/constraints/ubuntu-22.04.txt -e '.[sim,train,dev]'"),
        ("jazzy", [], ".venv", "-c config/constraints/ubuntu-24.04.txt -e '.[sim,train,dev]'"),
        ("lyrical", [], ".venv", "-c config/constraints/ubuntu-26.04.txt -e '.[sim,train,dev]'"),
    ],
)
def test_make_gives_each_distribution_its_environment(
    sourced: str, options: list[str], environment: str, installed: str
) -> None:
    plan = make("-n", "-W", "setup.py", ".venv", *options, sourced=sourced).stdout
    (line,) = (line for line in plan.splitlines() if "pip install" in line and " -e " in line)
    assert line.startswith(f"{environment}/bin/python") and installed in line
    assert ("--system-site-packages" in plan) == bool(sourced)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_an_unknown_distribution_is_refused_by_make() -> None:
    refused = make(".venv", "ROS=foxy", "VENV=no_such_folder", "PYTHON=true", sourced="")
    assert refused.returncode and "ROS must be jazzy or kilted" in refused.stdout


def test_setup_py_installs_the_nodes_that_bringup_starts() -> None:
    setup = (ROOT / "setup.py").read_text()
    listed = setup.partition("NODES = {")[2].partition("}")[0]
    installed = dict(re.findall(r'"(\w+)": "([\w.]+)"', listed))
    assert {name: f"vla_ros.nodes.{module}" for name, module in installed.items()} == bringup.NODES
