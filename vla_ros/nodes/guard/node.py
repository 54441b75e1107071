# SPDX-License-Identifier: Apache-2.0
"""Own the arm: execute plans within the robot's limits, and stop for everything that speaks against it.

A lifecycle node without a model in its process. Names are relative; those of the robot come from its file:

  subscribes  plan (trajectory_msgs/MultiDOFJointTrajectory) and policy/status (DiagnosticStatus, the heartbeat) of
              one planner, ee_pose, the emergency stops of the robot's file (std_msgs/Bool), enable (std_msgs/Bool,
              with require_enable), takeover_twist (TwistStamped): a person moves the arm
  publishes   twist_command at command_hz, gripper_command on change, ~/state (DiagnosticStatus, latched),
              /diagnostics, intervention (std_msgs/Bool, latched); with dry_run ~/preview instead of commands
  services    ~/arm (std_srvs/SetBool), ~/reset (std_srvs/Trigger: clears a fault, never moves the arm), lifecycle

A stop stays within the robot's limits, ends with zero twists, then the node goes quiet. A stop that lasts longer than
resume_within_s disarms: somebody has to call ~/arm again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vla_ros.nodes.common.parameters import help_text
from vla_ros.nodes.guard.parameters import PARAMETERS


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until a signal. Exit status: 0 on request, 1 after an error."""
    given = list(sys.argv[1:] if args is None else args)
    parser = argparse.ArgumentParser(
        prog="guard_node",
        description=__doc__,
        epilog=help_text(PARAMETERS, "config/policy.yaml"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(given[: given.index("--ros-args")] if "--ros-args" in given else given)
    from vla_ros.nodes.common.lifecycle_node import run  # after --help: rclpy takes a while
    from vla_ros.nodes.guard.lifecycle import GuardNode

    return run("guard_node", given, GuardNode)


if __name__ == "__main__":
    sys.exit(main())
