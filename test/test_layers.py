# SPDX-License-Identifier: Apache-2.0
"""Packages have layers: one imports only from layers below its own, and only some may use certain libraries."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vla_ros"

# A package is a folder of vla_ros, or a module right below it. Those of layer 1 may use each other.
LAYERS = {
    "__init__": 0, "errors": 0, "files": 0, "resources": 0,
    "contract": 1, "grid": 1, "actions": 1, "robot": 1, "robot_streams": 1, "schema": 1, "topics": 1, "html": 1,
    "geometry": 1, "imaging": 1, "observations": 1, "transport": 1,
    "datasets": 2, "sim": 2,
    "policy": 3,
    "runtime": 4, "bringup": 4,
    "evaluation": 5, "launch_arguments": 5,
    "nodes": 6, "train": 6,
    "commands": 7, "cli": 7,
}  # fmt: skip

ROS = {
    "rclpy", "ament_index_python", "builtin_interfaces", "cv_bridge", "control_msgs", "diagnostic_msgs",
    "diagnostic_updater", "geometry_msgs", "launch", "launch_ros", "lifecycle_msgs", "message_filters", "moveit_msgs",
    "rcl_interfaces", "rosbag2_py", "rosgraph_msgs", "rosidl_runtime_py", "sensor_msgs", "std_msgs", "std_srvs",
    "tf2_msgs", "tf2_ros",
}  # fmt: skip

# library -> the packages or modules (paths below vla_ros) that may import it
ONLY_IN = {
    **dict.fromkeys(ROS, ("nodes/",)),
    **dict.fromkeys(("rosbags",), ("datasets/",)),
    **dict.fromkeys(("pytorch_lightning", "lightning", "lightning_fabric"), ("policy/module.py", "train/")),
    **dict.fromkeys(("tensorboard", "torchmetrics", "wandb"), ("train/",)),
    **dict.fromkeys(("pyarrow", "av"), ("datasets/lerobot/",)),
    **dict.fromkeys(("jinja2",), ("html.py",)),
    "filelock": ("datasets/", "train/"),
    "google_crc32c": ("datasets/",),
    **dict.fromkeys(("mujoco", "gymnasium"), ("sim/",)),
    **dict.fromkeys(("transformers", "tokenizers", "safetensors", "peft"), ("policy/",)),
    **dict.fromkeys(("libero", "robosuite"), ("evaluation/benchmarks/libero.py",)),
    **dict.fromkeys(("calvin_env", "calvin_agent", "omegaconf"), ("evaluation/benchmarks/calvin.py",)),
    # Loading these can run code that a file brings along.
    **dict.fromkeys(("dill", "cloudpickle", "marshal", "shelve"), ()),
    "pickle": ("datasets/calvin/safe_pickle.py",),
    # The folder train/ is the package vla_ros.train; under another name its modules would exist twice.
    "train": (),
}
# library -> the packages that must do without it
NEVER_IN = {
    "torch": (
        "datasets/",
        "sim/",
        *(f"evaluation/{name}/" for name in ("replay", "protocols", "benchmarks", "reports")),
    ),
    "vla_ros.datasets": ("runtime/",),
    "vla_ros.evaluation": ("nodes/",),
    "vla_ros.nodes": ("train/",),
}


def _modules() -> list[str]:
    files = [*PACKAGE.rglob("*.py"), *(PACKAGE / "train").resolve().rglob("*.py")]
    names = {
        f"train/{file.relative_to(ROOT / 'train')}" if file.is_relative_to(ROOT / "train")
        else str(file.relative_to(PACKAGE))
        for file in files
    }  # fmt: skip
    return sorted(names)


MODULES = _modules()


def imports(module: str) -> set[str]:
    """Return the dotted names that a module imports anywhere in its text, inside functions too."""
    names = set()
    package = ["vla_ros", *Path(module).parts[:-1]]
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            names |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return names


def package_of(path: str) -> str:
    """Return the package of a module path below vla_ros (``datasets/episode.py``, ``robot.py``: datasets, robot)."""
    return Path(path).parts[0].removesuffix(".py")


def test_every_package_has_a_layer() -> None:
    assert {package_of(module) for module in MODULES} <= set(LAYERS)


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_from_layers_below(module: str) -> None:
    own = package_of(module)
    for name in imports(module):
        parts = name.split(".")
        if parts[0] != "vla_ros" or len(parts) == 1 or parts[1] not in LAYERS:
            continue
        other = parts[1]
        same_package = other == own or (LAYERS[other] <= 1 and LAYERS[own] == 1) or LAYERS[own] == 0
        assert same_package or LAYERS[other] < LAYERS[own], (
            f"vla_ros/{module} (layer {LAYERS[own]}) imports {name} (layer {LAYERS[other]})"
        )


@pytest.mark.parametrize("module", MODULES)
def test_module_uses_only_the_libraries_of_its_package_of(module: str) -> None:
    for name in imports(module):
        for library, allowed in ONLY_IN.items():
            if name == library or name.startswith(f"{library}."):
                assert module.startswith(allowed), f"vla_ros/{module} imports {name}, which only {allowed} may"
        for library, forbidden in NEVER_IN.items():
            if name == library or name.startswith(f"{library}."):
                assert not module.startswith(forbidden), f"vla_ros/{module} imports {name}, which {forbidden} must not"


@pytest.mark.parametrize("module", MODULES)
def test_module_names_its_licence_first(module: str) -> None:
    assert (PACKAGE / module).read_text().startswith("# SPDX-License-Identifier: Apache-2.0\n")


# Run in a fresh interpreter: the libraries named first are not there; then the modules are imported.
_IMPORT_WITHOUT = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

absent = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Absent())
for module in sys.argv[2].split(","):
    importlib.import_module(module)
print(*sorted(sys.modules))
"""


def import_without(absent: set[str], modules: list[str]) -> set[str]:
    """Import modules in a fresh interpreter where ``absent`` libraries are missing; return all that got loaded."""
    result = subprocess.run(
        [sys.executable, "-c", _IMPORT_WITHOUT, ",".join(absent), ",".join(modules)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def _names(*packages: str) -> list[str]:
    """Return the dotted names of all modules in these packages."""
    return [
        "vla_ros." + module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for module in MODULES if package_of(module) in packages
    ]  # fmt: skip


def test_training_imports_on_a_machine_without_ros() -> None:
    import_without(ROS, _names("train", "policy", "runtime", "datasets", "evaluation"))


def test_demonstrations_simulator_and_evaluation_load_no_torch() -> None:
    pytest.importorskip("mujoco")
    modules = [name for name in _names("datasets", "sim", "evaluation") if ".closed_loop" not in name]
    assert "torch" not in import_without(ROS | {"torch"}, modules)


@pytest.mark.ros
def test_policy_node_starts_without_what_only_training_needs() -> None:
    absent = {"pytorch_lightning", "lightning", "tensorboard", "torchmetrics", "mujoco", "gymnasium", "matplotlib"}
    import_without(absent, ["vla_ros.nodes.policy.node"])


def test_help_of_the_command_line_loads_no_heavy_library() -> None:
    loaded = import_without({"rclpy"}, ["vla_ros.cli"])
    assert loaded.isdisjoint({"torch", "transformers", "numpy", "cv2", "pytorch_lightning", "mujoco"})
