# SPDX-License-Identifier: Apache-2.0
"""Command lines of nodes. `--help` answers without ROS, which takes a while to import."""

from __future__ import annotations

import argparse
import contextlib
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator, Sequence

from vla_ros.nodes.common.parameters import help_text


def answer_help(executable: str, description: str | None, args: Sequence[str] | None, epilog: str = "") -> list[str]:
    """Print help and exit if requested; refuse arguments that are not ROS arguments.

    Args:
        args: None: those of the command line.

    Returns:
        The arguments.
    """
    given = list(sys.argv[1:] if args is None else args)
    parser = argparse.ArgumentParser(
        prog=executable,
        description=description,
        epilog=epilog or f"Set parameters with: {executable} --ros-args -p NAME:=VALUE, or --params-file FILE.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(given[: given.index("--ros-args")] if "--ros-args" in given else given)
    return given


def run_node(executable: str, node: str, description: str | None, args: Sequence[str] | None) -> int:
    """Answer `--help`, or run a node until a signal; return the exit status.

    Args:
        node: Its class, as "module:Class".
        args: None: those of the command line.
    """
    parent = os.getppid()  # before the imports, which take a while
    with _ctrl_c_at_the_edges():
        given = answer_help(executable, description, args)
        from vla_ros.nodes.common.startup import run

        return run(pkgutil.resolve_name(node), [executable, *given], parent)
    return 0


def run_lifecycle_node(
    executable: str, node: str, description: str | None, specs: str, args: Sequence[str] | None
) -> int:
    """Answer `--help`, or run a lifecycle node until a signal; return the exit status.

    Args:
        node: Its class, as "module:Class".
        specs: Its parameters, as "module:NAME".
        args: None: those of the command line.
    """
    parent = os.getppid()  # before the imports, which take a while
    with _ctrl_c_at_the_edges():
        help_of_parameters = help_text(pkgutil.resolve_name(specs), "config/policy.yaml")
        given = answer_help(executable, description, args, help_of_parameters)
        from vla_ros.nodes.common.lifecycle_node import run

        return run(executable, given, pkgutil.resolve_name(node), parent)
    return 0


@contextlib.contextmanager
def _ctrl_c_at_the_edges() -> Iterator[None]:
    """End quietly on Ctrl-C before ROS has started, and ignore a second one while Python ends."""
    with contextlib.suppress(KeyboardInterrupt):
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
