# SPDX-License-Identifier: Apache-2.0
"""Run a vision-language-action policy on a robot: cameras and a language command in, twists and a gripper command out.

A lifecycle node. Topic names and types come from the robot's file and are relative; for the shipped one:

  subscribes  camera/static/..., camera/wrist/... (Image or CompressedImage), ee_pose, joint_states,
              language_command (std_msgs/String, latched; empty text means stop),
              enable (std_msgs/Bool, with require_enable), emergency_stop (std_msgs/Bool),
              takeover_twist (TwistStamped) and takeover_gripper: a person moves the arm
  publishes   twist_command (TwistStamped at the control rate), gripper_command (Float64MultiArray, on change),
              ~/state (std_msgs/String, latched: JSON), /diagnostics, intervention (std_msgs/Bool, latched),
              ~/plan (geometry_msgs/PoseArray: the predicted path, while there are subscribers);
              with dry_run ~/preview and ~/preview_gripper instead of the commands
  services    ~/arm (std_srvs/SetBool), ~/reset (std_srvs/Trigger: clear plan, history and fault), lifecycle

If anything is missing, stale or invalid, the node stops the arm within its limits, sends zero twists, then goes quiet
until new observations yield a new plan.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vla_ros.nodes.policy import parameters


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until a signal; return 0, or 1 after an error."""
    given = list(sys.argv[1:] if args is None else args)
    parser = argparse.ArgumentParser(
        prog="policy_node",
        description=__doc__,
        epilog=parameters.help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(given[: given.index("--ros-args")] if "--ros-args" in given else given)
    from vla_ros.nodes.policy.lifecycle import run  # after --help: rclpy takes a while

    return run(given)


if __name__ == "__main__":
    sys.exit(main())
