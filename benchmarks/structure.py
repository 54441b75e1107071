# SPDX-License-Identifier: Apache-2.0
"""How easily do readers find their way? Files from image to twist, files from bag row to loss, and code sizes.

    python benchmarks/structure.py [--json FILE] [--static]

Files are counted by running the real code under `sys.setprofile`: every file of the package in which a function runs.
From image to twist, over two processes: in the policy node a camera's callback and the engine's planning of one tick
until the plan is published, in the guard the plan's callback and a tick until the twist is published, with the shipped
checkpoint on the simulated arm, in steady state. From bag row to loss: the data path of the shipped recipe on one
recorded bag, from the recipe's `data.bags` to the loss of one training step.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import figures
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vla_ros"
BAG = ROOT / "test" / "data" / "bags" / "mcap_zstd_fast"
ROBOT = ROOT / "test" / "data" / "robots" / "fixture.yaml"
TRACED_S, TIMEOUT_S = 5.0, 60.0
COMMAND = "pick up the red block"


class FilesEntered:
    """Collects the package's files in which a function runs while one of the `counted` functions does.

    Args:
        own_thread: count only in the thread that runs the counted function, since others serve something else.
    """

    def __init__(self, *, own_thread: bool) -> None:
        self.on = True
        self.files: set[str] = set()
        self._inside: Any = threading.local() if own_thread else SimpleNamespace()

    def counted(self, owner: Any, name: str) -> None:
        """Count what the function `owner.name` enters from now on."""
        inner = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            before, self._inside.value = getattr(self._inside, "value", False), True
            try:
                return inner(*args, **kwargs)
            finally:
                self._inside.value = before

        setattr(owner, name, call)

    def __call__(self, frame: Any, event: str, _: Any) -> None:
        if not self.on or event != "call" or not getattr(self._inside, "value", False):
            return
        name = frame.f_code.co_filename
        if not frame.f_code.co_name.startswith("<module") and name.startswith(str(ROOT)) and "/.venv/" not in name:
            self.files.add(os.path.relpath(os.path.realpath(name), ROOT))

    def package_files(self) -> list[str]:
        return sorted(name for name in self.files if name.startswith(("vla_ros/", "train/")))


@contextlib.contextmanager
def traced(*, own_thread: bool) -> Iterator[FilesEntered]:
    entered = FilesEntered(own_thread=own_thread)
    threading.setprofile(entered)
    sys.setprofile(entered)
    try:
        yield entered
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def bag_row_to_loss(folder: Path) -> list[str]:
    """Return the files entered from a recipe's bag to the loss of a training step."""
    import shutil

    from vla_ros.train.fit import fit
    from vla_ros.train.recipes import load_config

    bag = shutil.copytree(BAG, folder / "bag")
    overrides = [f"data.bags={json.dumps([str(bag)])}", f"data.robot={ROBOT}", f"output={folder / 'runs'}"]
    overrides += ["trainer.max_steps=1", "data.workers=1", "data.validation_fraction=0", "trainer.batch_windows=2"]
    config = load_config(ROOT / "config" / "train" / "tabletop.json", overrides)
    with traced(own_thread=False) as entered:
        _trace_only_the_data_path(entered)
        fit(config)
    return entered.package_files()


def _trace_only_the_data_path(entered: FilesEntered) -> None:
    """Count while a source is read and from batch to loss, without its configuration and the rest of a run."""
    from vla_ros.policy.module import VLAModule
    from vla_ros.train import demonstrations

    entered.counted(demonstrations, "load_source")
    entered.counted(demonstrations.WindowDataset, "__init__")
    entered.counted(demonstrations.WindowDataset, "__getitems__")
    entered.counted(VLAModule, "training_step")


def trace_policy(arguments: Sequence[str]) -> FilesEntered:
    """Run the policy node until a signal."""
    from vla_ros.nodes.policy import node
    from vla_ros.nodes.policy.observation_streams import ObservationStreams
    from vla_ros.runtime.planning.engine import Engine

    return _trace_node(node.main, arguments, [(ObservationStreams, "receive"), (Engine, "_tick")])


def trace_guard(arguments: Sequence[str]) -> FilesEntered:
    """Run the guard node until a signal."""
    from vla_ros.nodes.guard import node
    from vla_ros.nodes.guard.session import GuardSession

    return _trace_node(node.main, arguments, [(GuardSession, "_on_plan"), (GuardSession, "_on_tick")])


def _trace_node(
    main: Callable[[Sequence[str]], int], arguments: Sequence[str], counted: Sequence[tuple[Any, str]]
) -> FilesEntered:
    """Count from SIGUSR1 to SIGUSR2: while the arm moves."""
    with traced(own_thread=True) as entered:
        entered.on = False
        for owner, name in counted:
            entered.counted(owner, name)
        signal.signal(signal.SIGUSR1, lambda *_: setattr(entered, "on", True))
        signal.signal(signal.SIGUSR2, lambda *_: setattr(entered, "on", False))
        main(arguments)
    return entered


def image_to_twist(folder: Path) -> dict[str, list[str]]:
    """Return the files entered by policy and guard while they drive the simulated arm."""
    from vla_ros import bringup, transport
    from vla_ros.commands.ros import ros_evaluation
    from vla_ros.commands.ros.isolation import isolate

    isolate()
    os.environ.update(transport.environment())
    from vla_ros.nodes.clients.rollouts import RolloutClient  # after the environment is set: rclpy reads it once

    simulator, *nodes = bringup.demo()
    arm = [sys.executable, "-m", bringup.NODES[simulator.executable], *simulator.ros_arguments()]
    running = [subprocess.Popen(arm)]
    try:
        for node in nodes:
            command = [sys.executable, __file__, "--path", node.name, "--json", str(folder / node.name)]
            running.append(subprocess.Popen([*command, *node.ros_arguments()], env={**os.environ, **node.environment}))
        with RolloutClient("", watch=False) as client:
            ros_evaluation.wait_for_policy(client, "", lambda: None)
            subprocess.run([sys.executable, "-m", "vla_ros.cli", "say", COMMAND], check=True)
            _wait(lambda: client.guard_state()["state"] == "running", "a moving arm")
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
            for process in running[1:]:
                process.send_signal(number)
            time.sleep(TRACED_S if number == signal.SIGUSR1 else 0.0)
        for process in running[1:]:
            process.wait(TIMEOUT_S)
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
            process.wait(TIMEOUT_S)
    return {node.name: json.loads((folder / node.name).read_text()) for node in nodes}


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"no {what} within {TIMEOUT_S:g} s")
        time.sleep(0.05)


def sizes() -> dict[str, object]:
    """Return lines of the package, modules per folder, and 90th percentiles of module and function lengths."""
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "train").rglob("*.py")]
    files = sorted({file.resolve() for file in files})
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in files}
    modules = {name: length for name, length in lengths.items() if not name.endswith("__init__.py")}
    folders: dict[str, int] = {}
    for name in modules:
        folders[str(Path(name).parent)] = folders.get(str(Path(name).parent), 0) + 1
    functions = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions[f"{file.relative_to(ROOT)}:{node.name}"] = node.end_lineno - node.lineno + 1
    largest = sorted(modules.items(), key=lambda item: -item[1])
    return {
        "lines": sum(lengths.values()),
        "modules": len(modules),
        "module_lines_p90": float(np.percentile(list(modules.values()), 90)),
        "module_lines_max": largest[0],
        "modules_over_300": [item for item in largest if item[1] > 300],
        "function_lines_p90": float(np.percentile(list(functions.values()), 90)),
        "functions_over_60": sorted((item for item in functions.items() if item[1] > 60), key=lambda item: -item[1]),
        "modules_per_folder_max": max(folders.values()),
        "folders_over_12": {name: count for name, count in folders.items() if count > 12},
    }


def rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the report as a table: files of each path, then the sizes that are numbers."""
    names = {"image_to_twist": "files from image to twist", "bag_row_to_loss": "files from bag row to loss"}
    found = [(text, str(len(report[name]))) for name, text in names.items() if name in report]
    for process, files in report.get("image_to_twist_by_process", {}).items():
        found.append((f"files from image to twist: {process}", str(len(files))))
    sizes = {name: value for name, value in report["sizes"].items() if isinstance(value, int | float)}
    return found + [(name.replace("_", " "), f"{value:g}") for name, value in sizes.items()]


def run(path: str, folder: Path, ros: Sequence[str]) -> Any:
    """Return what one process enters: the files of a path, or of a node on it."""
    if path == "image":
        return image_to_twist(folder)
    if path == "bag":
        return bag_row_to_loss(folder)
    return {"policy": trace_policy, "guard": trace_guard}[path](ros).package_files()


def measured(path: str) -> Any:
    """Return `run` of a new process."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, __file__, "--path", path, "--json", file.name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(Path(file.name).read_text())


def main() -> None:
    given = sys.argv[1:]
    at = given.index("--ros-args") if "--ros-args" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="results file")
    parser.add_argument("--static", action="store_true", help="sizes only, run nothing")
    paths = ["image", "policy", "guard", "bag"]
    parser.add_argument("--path", choices=paths, help=argparse.SUPPRESS)  # each in a process of its own
    arguments = parser.parse_args(given[:at])
    if arguments.path:
        with tempfile.TemporaryDirectory() as folder:
            arguments.json.write_text(json.dumps(run(arguments.path, Path(folder), given[at:])))
        return
    report: dict[str, Any] = {"sizes": sizes()}
    if not arguments.static:
        report["image_to_twist_by_process"] = measured("image")
        report["image_to_twist"] = sorted(set().union(*report["image_to_twist_by_process"].values()))
        report["bag_row_to_loss"] = measured("bag")
        for process, files in report["image_to_twist_by_process"].items():
            print(f"{process}: {len(files)} files")
        for name in ("image_to_twist", "bag_row_to_loss"):
            print(f"{name}: {len(report[name])} files")
            print(*(f"  {entry}" for entry in report[name]), sep="\n")
    for key, value in report["sizes"].items():
        print(f"{key}: {value}")
    if arguments.json:
        figures.write(
            arguments.json,
            title="Structure of the package",
            runs=1,
            columns=("quantity", "figure"),
            rows=rows(report),
            note="Files of the package in which a function runs, from a camera's image to the twist (in the processes "
            "of policy and guard) and from a recorded bag to the loss of a training step; sizes of the code.",
            details=report,
        )


if __name__ == "__main__":
    main()
