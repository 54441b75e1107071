# SPDX-License-Identifier: Apache-2.0
"""Own the arm: execute plans within the robot's limits, and stop for everything that speaks against it.

A lifecycle node without a model in its process. Names are relative; those of the robot come from its file:

  subscribes  plan (trajectory_msgs/MultiDOFJointTrajectory) and policy/status (DiagnosticStatus, the heartbeat) of
              one planner, ee_pose, the emergency stops of the robot's file (std_msgs/Bool), enable (std_msgs/Bool,
              with require_enable), takeover_twist (TwistStamped): a person moves the arm
  publishes   twist_command at its command_hz, gripper_command on change, ~/state (DiagnosticStatus, latched),
              /diagnostics, intervention (std_msgs/Bool, latched); with dry_run ~/preview instead of commands
  services    ~/arm (std_srvs/SetBool), ~/reset (std_srvs/Trigger: clears a fault, never moves the arm), lifecycle

A stop stays within the robot's limits, ends with zero twists, then the node goes quiet. A stop that lasts longer than
resume_within_s disarms: somebody has to call ~/arm again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from vla_ros import transport
from vla_ros.nodes.common.command_line import run_lifecycle_node


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until a signal. Exit status: 0 on request, 1 after an error."""
    os.environ.update(transport.guard_environment())  # before Fast DDS is loaded
    node, parameters = "vla_ros.nodes.guard.lifecycle:GuardNode", "vla_ros.nodes.guard.parameters:PARAMETERS"
    return run_lifecycle_node("guard_node", node, __doc__, parameters, args)


if __name__ == "__main__":
    sys.exit(main())
