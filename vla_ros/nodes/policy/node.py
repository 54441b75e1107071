# SPDX-License-Identifier: Apache-2.0
"""Run a vision-language-action policy: cameras and a language command in, plans for the guard out.

A lifecycle node. Topic names and types come from the robot's file and are relative; for the shipped one:

  subscribes  camera/static/..., camera/wrist/... (Image or CompressedImage), ee_pose, joint_states,
              language_command (std_msgs/String, latched; an empty text or a stop word stops the arm)
  publishes   plan (trajectory_msgs/MultiDOFJointTrajectory), policy/status (DiagnosticStatus: the heartbeat),
              ~/state (DiagnosticStatus, latched), /diagnostics,
              ~/predicted_path (geometry_msgs/PoseArray: where the newest plan leads, while there are subscribers)
  services    ~/reset (std_srvs/Trigger: forget plan, history and fault), lifecycle

It moves nothing: `guard_node` executes the plans, if all is well and somebody has armed it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vla_ros.nodes.common.command_line import run_lifecycle_node


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until a signal; return 0, or 1 after an error."""
    node, parameters = "vla_ros.nodes.policy.lifecycle:PolicyNode", "vla_ros.nodes.policy.parameters:PARAMETERS"
    return run_lifecycle_node("policy_node", node, __doc__, parameters, args)


if __name__ == "__main__":
    sys.exit(main())
