# SPDX-License-Identifier: Apache-2.0
"""The ``vla`` command line. Each subcommand is a module, imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import os
import select
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from vla_ros import __version__
from vla_ros.errors import UserError, how_to_install

# name -> (module, one line for `vla --help`). The module has add_arguments(parser) and run(args) -> exit status; its
# docstring is the rest of its help.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("vla_ros.commands.ros.demo", "run the shipped policy on the simulated arm and report its success rate"),
    "loop": ("vla_ros.commands.ros.loop", "teach the policy a new task: record, fine-tune, evaluate before and after"),
    "record-demo": ("vla_ros.commands.ros.record_demo", "record demonstrations of the simulated arm as rosbag2 bags"),
    "record-libero": ("vla_ros.commands.data.record_libero", "record demonstrations of a LIBERO task"),
    "inspect": (
        "vla_ros.commands.data.inspect",
        "check bags, data sets or a recipe: streams, episodes, quality, what training skips",
    ),
    "annotate": ("vla_ros.commands.data.annotate", "write the episodes of bags to a table for you to correct"),
    "convert": ("vla_ros.commands.data.convert", "export the episodes of bags as a LeRobot data set"),
    "store": ("vla_ros.commands.data.store", "list and clean the decode cache"),
    "fit": ("vla_ros.train.fit", "train or fine-tune a policy on recorded bags"),
    "evaluate": ("vla_ros.commands.policy.evaluate", "measure a policy's success rate in simulation or over ROS"),
    "replay": ("vla_ros.commands.policy.replay", "diagnose mismatches between robot, recordings and checkpoint"),
    "replay-onto-robot": (
        "vla_ros.commands.ros.replay_onto_robot",
        "replay a recorded episode on the robot and check that it moves as recorded",
    ),
    "report": ("vla_ros.commands.policy.report", "collect everything about a training run in one HTML file"),
    "import-robovlms": ("vla_ros.commands.policy.import_robovlms", "convert RoboVLMs weights to a checkpoint"),
    "params": ("vla_ros.commands.policy.params", "show a policy's parameters, memory and compute per step"),
    "launch": (
        "vla_ros.commands.ros.launch",
        "run policy, guard, recorder or demo as the launch files do, without ROS's",
    ),
    "say": ("vla_ros.commands.ros.say", "send a language command to the running policy"),
    "monitor": ("vla_ros.commands.ros.monitor", "monitor a running policy: state, rates, latencies, stops"),
    "check": ("vla_ros.commands.check", "check that this machine has what recording, training and running need"),
}

# Top-level module -> the extra of setup.py that installs it; "" is what every install of vla_ros includes.
EXTRAS = {
    **dict.fromkeys(
        ("numpy", "scipy", "yaml", "rosbags", "apsw", "backports", "lz4", "torch", "pytorch_lightning",
         "transformers", "tokenizers", "safetensors", "rich", "psutil", "matplotlib", "PIL", "jinja2", "filelock",
         "google_crc32c"),
        "",
    ),
    **dict.fromkeys(
        ("rclpy", "sensor_msgs", "geometry_msgs", "std_msgs", "std_srvs", "diagnostic_msgs", "lifecycle_msgs",
         "rosgraph_msgs", "rcl_interfaces", "builtin_interfaces"),
        "ros",
    ),
    "cv2": "opencv",
    "mujoco": "sim",
    "gymnasium": "sim",
    "tensorboard": "train",
    "pyarrow": "lerobot",
    "av": "lerobot",
    "array_record": "arrayrecord",
    "peft": "vlm",
    "libero": "libero",
    "robosuite": "libero",
}  # fmt: skip


OPENGL_HELP = (
    "the simulated cameras need off-screen OpenGL: install Mesa's software renderer (Debian, Ubuntu: apt install "
    "libegl1 libegl-mesa0 libgl1-mesa-dri libgl1), and leave the environment variable MUJOCO_GL unset"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``vla`` with ``argv`` (default: the process's arguments) and return the exit status.

    Status: 0 success, 1 a negative result (see the subcommand's help), 2 a usage error, 130 interrupted, 141 whoever
    read the output has ended.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        parser, module = _parser(arguments)
        parsed = parser.parse_args(arguments)
        if module is None:
            parser.print_help()
            return 0
        status = int(module.run(parsed) or 0)
        sys.stdout.flush()
        return status
    except UserError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _fail(_missing(error))
    except BrokenPipeError:
        if not _output_is_gone():
            raise
        return 141
    except (ImportError, AttributeError, OSError) as error:  # raised by PyOpenGL if a library is missing
        if not _is_from_opengl(error):
            raise
        return _fail(f"OpenGL failed to load ({error}); {OPENGL_HELP}")
    except KeyboardInterrupt:
        return 130


def _parser(arguments: Sequence[str]) -> tuple[argparse.ArgumentParser, ModuleType | None]:
    """Build the parser; import only the subcommand that is called."""
    parser = argparse.ArgumentParser(
        prog="vla",
        description="Record robot demonstrations, fine-tune a vision-language-action policy on them, and run it.",
        epilog="Start with `vla demo`. See `vla COMMAND --help` for each command.",
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
    """Return how to install the missing package; re-raise if it belongs to no extra, which is a bug."""
    name = (error.name or "").partition(".")[0]
    if name not in EXTRAS:
        raise error
    return f"the Python package {name!r} is not installed for {sys.executable}; {how_to_install(EXTRAS[name])}"


def _output_is_gone() -> bool:
    """Return whether nobody reads stdout any more (`vla check | head`); Python would complain of it at its end."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def _is_from_opengl(error: BaseException) -> bool:
    """Return whether the error was raised while MuJoCo was loading OpenGL."""
    raised_in = {Path(frame.filename).parent for frame in traceback.extract_tb(error.__traceback__)[-2:]}
    return any({"OpenGL", "mujoco"} & set(folder.parts) for folder in raised_in)


def _fail(message: str) -> int:
    print(f"vla: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
