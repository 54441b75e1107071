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

import argparse
import sys
from collections.abc import Sequence

from vla_ros.nodes.common.parameters import help_text
from vla_ros.nodes.policy.parameters import PARAMETERS


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until a signal; return 0, or 1 after an error."""
    given = list(sys.argv[1:] if args is None else args)
    parser = argparse.ArgumentParser(
        prog="policy_node",
        description=__doc__,
        epilog=help_text(PARAMETERS, "config/policy.yaml"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(given[: given.index("--ros-args")] if "--ros-args" in given else given)
    from vla_ros.nodes.common.lifecycle_node import run  # after --help: rclpy takes a while
    from vla_ros.nodes.policy.lifecycle import PolicyNode

    return run("policy_node", given, PolicyNode)


if __name__ == "__main__":
    sys.exit(main())
