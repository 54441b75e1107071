# SPDX-License-Identifier: Apache-2.0
"""Record demonstrations: episodes with a start, an outcome and a language command, in a rosbag2 bag (MCAP).

Services    ~/start is refused while a camera is silent or no language command is known
            ~/success, ~/failure, ~/discard end the episode (all std_srvs/Trigger)
Publishes   episode (std_msgs/String, latched): JSON markers of starts and ends, also written to the bag
Subscribes  every topic of the robot file, as serialised bytes that are written unchanged

With write:=false it writes no bag, but gates and marks episodes alongside `ros2 bag record`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vla_ros.nodes.common import command_line


def main(args: Sequence[str] | None = None) -> int:
    """Run the recorder until a signal."""
    return command_line.run_node("recorder_node", "vla_ros.nodes.recorder.recorder:RecorderNode", __doc__, args)


if __name__ == "__main__":
    sys.exit(main())
