# SPDX-License-Identifier: Apache-2.0
"""The simulated table-top arm as a ROS 2 robot: two cameras, an arm that follows twists, a gripper, language tasks.

Subscribes  twist_command (geometry_msgs/TwistStamped in base_link; the arm stops 0.2 s after the last one)
            gripper_command (std_msgs/Float64MultiArray: width between the fingers, 0 closed ... 0.08 m open)
            recorded_until (builtin_interfaces/Time, from the recorder), with lockstep_hz: the clock waits at each tick
            of that rate until its twist has arrived and it is recorded, so that a busy machine spoils no demonstration
Publishes   camera/{static,wrist}/image_raw and .../compressed, ee_pose, joint_states, ~/state (the whole scene),
            task/success (std_msgs/Bool, latched), /diagnostics; /clock with publish_clock
Services    ~/reset (std_srvs/Trigger): a new scene for the parameters task and seed; answers in JSON
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vla_ros.nodes.common import command_line


def main(args: Sequence[str] | None = None) -> int:
    """Run the simulator until it is stopped."""
    return command_line.run_node("simulator_node", "vla_ros.nodes.simulator.simulator:SimulatorNode", __doc__, args)


if __name__ == "__main__":
    sys.exit(main())
