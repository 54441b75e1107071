# SPDX-License-Identifier: Apache-2.0
"""Which control rate? The scripted expert's success at 10, 12.5 and 20 Hz when it acts on observations some ticks old.

A policy in real time acts one tick late, or two on a busy machine. The rate follows from what a tick costs in success
and how many frames a demonstration has, which is the cost of training. No images are rendered.

    python benchmarks/control_rate.py --seeds 10 --json runs/control_rate.json
"""

from __future__ import annotations

import argparse
from collections import deque
from pathlib import Path

import figures
import numpy as np

from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import Expert
from vla_ros.sim.tasks import TRAINED_TASKS

TIME_LIMIT_S = 15.0


def episode(env: TabletopEnv, task: str, seed: int, delay_ticks: int) -> tuple[bool, int]:
    """Return whether the expert succeeds, and after how many ticks, with actions `delay_ticks` late."""
    env.reset(seed=seed, options={"task": task})
    expert = Expert(env.task)
    still = np.array([0, 0, 0, 0, 0, 0, env.state().opening])
    pending = deque([still] * delay_ticks)
    for tick in range(int(TIME_LIMIT_S * env.control_hz)):
        pending.append(expert.act(env.state()))
        if env.step(pending.popleft())[4]["success"]:
            return True, tick + 1
    return False, int(TIME_LIMIT_S * env.control_hz)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, default=10, help="episodes per task, rate and delay (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="results file")
    arguments = parser.parse_args()
    rows = []
    for control_hz in (10.0, 12.5, 20.0):
        env = TabletopEnv(control_hz=control_hz, render=False)
        for delay_ticks in (0, 1, 2):
            results = [
                episode(env, task, 20_000 + seed, delay_ticks)
                for task in TRAINED_TASKS
                for seed in range(arguments.seeds)
            ]
            ticks = [count for done, count in results if done]
            row = {
                "control_hz": control_hz,
                "delay_ticks": delay_ticks,
                "success_rate": round(sum(done for done, _ in results) / len(results), 4),
                "episodes": len(results),
                "mean_frames": round(float(np.mean(ticks)), 1),
                "mean_time_s": round(float(np.mean(ticks)) / control_hz, 2),
            }
            rows.append(row)
            print(row, flush=True)
        env.close()
    if arguments.json:
        figures.write(
            arguments.json,
            title="Control rate and delay: the scripted expert",
            runs=arguments.seeds * len(TRAINED_TASKS),
            note="The expert acts on observations some ticks old, in process. Frames per demonstration are the cost of "
            "training.",
            columns=("control rate [Hz]", "delay [ticks]", "delay [ms]", "success", "frames", "time [s]"),
            rows=[
                (f"{row['control_hz']:g}", row["delay_ticks"], f"{1000 * row['delay_ticks'] / row['control_hz']:.0f}",
                 f"{row['success_rate']:.1%}", row["mean_frames"], row["mean_time_s"])
                for row in rows
            ],
            details=rows,
        )  # fmt: skip


if __name__ == "__main__":
    main()
