# SPDX-License-Identifier: Apache-2.0
"""On host A: guard and arm; on host B: the planner. Prints what the arm did while the link was spoilt, as JSON.

network_trial.py FOLDER CONTROL DELAY_S LOSS PREFIX...      PREFIX: what runs a command on host B
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from guard_bench import guard_bench, planner

SPOILT_S, AFTER_S = 4.0, 2.0


def main() -> None:
    folder, control, link, prefix = Path(sys.argv[1]), Path(sys.argv[2]), " ".join(sys.argv[3:5]), sys.argv[5:]
    with guard_bench(folder, dict(os.environ), plans=False) as (arm, _, _):
        remote = planner(dict(os.environ), prefix=prefix)
        try:
            arm.wait_state("disarmed")
            arm.wait(lambda: any("move" in state.get("command", "") for state in arm.states), "a planner")
            arm.arm()
            arm.wait_moving()
            begun_s = time.monotonic()
            control.write_text(link)
            time.sleep(SPOILT_S)
            moved_s = arm.last_motion_s() - begun_s
            standing = sum(twist.linear_x == 0.0 for twist in arm.twists if twist.received_s > begun_s)
            spoilt = arm.states[-1]
            control.write_text("0 0")
            time.sleep(AFTER_S)
            after = time.monotonic() - arm.last_motion_s()
        finally:
            remote.terminate()
            remote.wait()
    print(json.dumps({"moved_s": moved_s, "zeros": standing, "state": spoilt, "silent_s": after}))


if __name__ == "__main__":
    main()
