# SPDX-License-Identifier: Apache-2.0
"""Start rclpy for a command."""

from __future__ import annotations

from collections.abc import Sequence

import rclpy

from vla_ros.errors import UserError


def start(ros_arguments: Sequence[str] = ()) -> None:
    """Initialise rclpy with what the user gave after `--ros-args`; UserError if that is not valid."""
    try:
        rclpy.init(args=["--ros-args", *ros_arguments])
    except RuntimeError as error:
        raise UserError(f"--ros-args {' '.join(ros_arguments)} is not valid: {error}") from None
