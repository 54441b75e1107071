# SPDX-License-Identifier: Apache-2.0
"""The command line ``vla``: one subcommand a module, imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from vla_ros import __version__
from vla_ros.errors import UserError

# name -> (module, one line for `vla --help`). The module has add_arguments(parser) and run(args) -> exit status;
# the rest of its help is its docstring.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": (
        "vla_ros.commands.ros.demo",
        "run the shipped policy on the simulated arm, over ROS 2, and print how it did",
    ),
    "loop": (
        "vla_ros.commands.ros.loop",
        "teach the policy a new task: record bags, fine-tune, evaluate before and after",
    ),
    "record-demo": ("vla_ros.commands.ros.record_demo", "record demonstrations of the simulated arm as rosbag2 bags"),
    "record-libero": (
        "vla_ros.commands.data.record_libero",
        "record demonstrations of a scripted expert on a task of LIBERO",
    ),
    "inspect": ("vla_ros.commands.data.inspect", "say what is in recorded bags, and what training would leave out"),
    "annotate": ("vla_ros.commands.data.annotate", "write a table of the episodes in bags, for a person to correct"),
    "convert": (
        "vla_ros.commands.data.convert",
        "write the episodes of bags as a data set for other software (LeRobot)",
    ),
    "store": ("vla_ros.commands.data.store", "list demonstrations that are decoded already, and remove stale ones"),
    "fit": ("vla_ros.train.fit", "train or fine-tune a policy from recorded bags"),
    "evaluate": (
        "vla_ros.commands.policy.evaluate",
        "measure a policy's success in simulation, in process or over ROS",
    ),
    "replay": ("vla_ros.commands.policy.replay", "show a checkpoint recorded bags, and say by name what does not fit"),
    "replay-onto-robot": (
        "vla_ros.commands.ros.replay_onto_robot",
        "play a recorded episode back onto a running robot, and say whether it moves as recorded",
    ),
    "report": (
        "vla_ros.commands.policy.report",
        "put curves, data, evaluations and replays of a run into one HTML file",
    ),
    "import-robovlms": (
        "vla_ros.commands.policy.import_robovlms",
        "make a checkpoint of weights that were trained with RoboVLMs",
    ),
    "params": ("vla_ros.commands.policy.params", "say how big a checkpoint's policy is, and what a step of it costs"),
    "say": ("vla_ros.commands.ros.say", "send a language command to the running policy"),
    "monitor": ("vla_ros.commands.ros.monitor", "watch a running policy: state, rates, latencies, what has stopped it"),
    "check": ("vla_ros.commands.check", "check that this machine has what recording, training and running need"),
}

# Top-level module -> the extra of setup.py that brings it; "" is what every install of vla_ros brings.
EXTRAS = {
    **dict.fromkeys(
        ("numpy", "scipy", "cv2", "yaml", "rosbags", "apsw", "backports", "lz4", "torch", "pytorch_lightning",
         "transformers", "tokenizers", "safetensors", "rich", "psutil", "matplotlib", "PIL", "jinja2", "filelock",
         "google_crc32c"),
        "",
    ),
    **dict.fromkeys(
        ("rclpy", "sensor_msgs", "geometry_msgs", "std_msgs", "std_srvs", "diagnostic_msgs", "lifecycle_msgs",
         "rosgraph_msgs", "rcl_interfaces", "builtin_interfaces"),
        "ros",
    ),
    "mujoco": "sim",
    "gymnasium": "sim",
    "tensorboard": "train",
    "pyarrow": "lerobot",
    "av": "lerobot",
    "peft": "vlm",
    "libero": "libero",
    "robosuite": "libero",
}  # fmt: skip


OPENGL_HELP = (
    "the simulated cameras need it without a screen: install Mesa's software renderer (Debian, Ubuntu: apt install "
    "libegl1 libegl-mesa0 libgl1-mesa-dri libgl1), and leave the environment variable MUJOCO_GL unset"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``vla`` with ``argv`` (default: the process's arguments) and return the exit status.

    Status: 0 done, 1 done but the result is bad (the subcommand says so), 2 the user gave something wrong,
    130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        parser, module = _parser(arguments)
        parsed = parser.parse_args(arguments)
        if module is None:
            parser.print_help()
            return 0
        return int(module.run(parsed) or 0)
    except UserError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _fail(_missing(error))
    except (ImportError, AttributeError, OSError) as error:  # what PyOpenGL raises without a library to load
        if not _is_of_opengl(error):
            raise
        return _fail(f"OpenGL can't be loaded ({error}); {OPENGL_HELP}")
    except KeyboardInterrupt:
        return 130


def _parser(arguments: Sequence[str]) -> tuple[argparse.ArgumentParser, ModuleType | None]:
    """Build the parser; only the subcommand that is called is imported, the others contribute a line of help."""
    parser = argparse.ArgumentParser(
        prog="vla",
        description="Record demonstrations of a robot, fine-tune a vision-language-action policy on them, run it.",
        epilog="Start with `vla demo`. `vla COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"vla_ros {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    module = None
    for name, (module_name, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == called:
            module = importlib.import_module(module_name)
            subparser.description = module.__doc__ or summary
            module.add_arguments(subparser)
    return parser, module


def _missing(error: ModuleNotFoundError) -> str:
    """Say what is not installed and how to install it; an import that no extra brings is a bug and is raised."""
    name = (error.name or "").partition(".")[0]
    if name not in EXTRAS:
        raise error
    extra = EXTRAS[name]
    distribution = "source your ROS 2 distribution's setup.bash, or " if extra == "ros" else ""
    what = f"'.[{extra}]'" if extra else "."
    return (
        f"the Python package {name!r} is not installed in the environment of {sys.executable}; {distribution}run "
        f"pip install -e {what} in a checkout of vla_ros"
    )


def _is_of_opengl(error: BaseException) -> bool:
    """Whether the error was raised while MuJoCo loaded OpenGL."""
    raised_in = {Path(frame.filename).parent for frame in traceback.extract_tb(error.__traceback__)[-2:]}
    return any({"OpenGL", "mujoco"} & set(folder.parts) for folder in raised_in)


def _fail(message: str) -> int:
    print(f"vla: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
