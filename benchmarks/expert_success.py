# SPDX-License-Identifier: Apache-2.0
"""How often does the scripted expert solve each task, undisturbed and perturbed? And how fast is the simulator?

Every seed is a new random scene. Perturbation adds the noise of `vla_ros.sim.expert.Perturbation` to the executed
actions, as when recording demonstrations.

    python benchmarks/expert_success.py --seeds 50 --scales 0 0.25 0.5 --json expert_success.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import figures
import numpy as np

from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import Expert, Perturbation
from vla_ros.sim.tasks import TASKS


def play(env: TabletopEnv, name: str, seed: int, scale: float, max_time_s: float) -> float | None:
    """Return the simulated seconds until the expert solves the task, or None."""
    env.reset(seed=seed, options={"task": name})
    expert = Expert(TASKS[name])
    noise = Perturbation(np.random.default_rng(seed), scale, env.control_hz)
    for step in range(1, round(max_time_s * env.control_hz) + 1):
        if env.step(noise.apply(expert.act(env.sim.state())))[2]:
            return step / env.control_hz
    return None


def measure(env: TabletopEnv, seeds: range, scale: float, max_time_s: float) -> dict[str, dict]:
    """Return success and mean time per task, printing a line for each."""
    results = {}
    for name in TASKS:
        times = [play(env, name, seed, scale, max_time_s) for seed in seeds]
        solved = [time_s for time_s in times if time_s is not None]
        failed = [seed for seed, time_s in zip(seeds, times, strict=True) if time_s is None]
        mean_s = float(np.mean(solved)) if solved else None
        results[name] = {"solved": len(solved), "episodes": len(times), "mean_time_s": mean_s, "failed_seeds": failed}
        seconds = f"{mean_s:.1f}" if solved else "-"
        print(f"  {name:18s} {len(solved):3d}/{len(times)}  mean {seconds} s  failed seeds {failed}", flush=True)
    solved_all = sum(result["solved"] for result in results.values())
    print(f"  {'all':18s} {solved_all}/{len(TASKS) * len(seeds)}", flush=True)
    return results


def steps_per_second(render: bool, steps: int = 300) -> float:
    """Return control steps at 10 Hz per second of wall time, with the arm in motion."""
    env = TabletopEnv(render=render)
    env.reset(seed=0, options={"task": "put_in_box_red"})
    expert = Expert(TASKS["put_in_box_red"])
    start = time.perf_counter()
    for step in range(steps):
        if step % 40 == 0:
            env.reset(seed=step)
        env.step(expert.act(env.sim.state()))
    env.close()
    return steps / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=50, help="episodes per task (default: 50)")
    parser.add_argument("--first-seed", type=int, default=0, help="first seed (default: 0)")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.0], help="perturbation scales (default: 0)")
    parser.add_argument("--control-hz", type=float, default=10.0, help="control rate (default: 10)")
    parser.add_argument("--max-time", type=float, default=20.0, help="simulated seconds per episode (default: 20)")
    parser.add_argument("--json", type=Path, help="results file")
    args = parser.parse_args()

    env = TabletopEnv(render=False, control_hz=args.control_hz)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    success = {}
    for scale in args.scales:
        print(f"perturbation {scale:g} at {args.control_hz:g} Hz", flush=True)
        success[f"{scale:g}"] = measure(env, seeds, scale, args.max_time)
    speed = {"without_cameras": steps_per_second(render=False), "two_cameras_128": steps_per_second(render=True)}
    print("control steps per second: " + ", ".join(f"{name} {value:.0f}" for name, value in speed.items()))
    if args.json:
        figures.write(
            args.json,
            title="The scripted expert",
            runs=args.seeds,
            note="Random scenes; perturbation is noise on the executed actions, as in recording. "
            f"Control steps per second of wall time: {speed['without_cameras']:.0f} without cameras, "
            f"{speed['two_cameras_128']:.0f} with two of 128x128 rendered on the CPU.",
            columns=("task", *(f"perturbation {scale}" for scale in success), "mean time [s]"),
            rows=[_row(name, [success[scale][name] for scale in success]) for name in TASKS],
            details={"control_hz": args.control_hz, "success": success, "steps_per_s": speed},
        )


def _row(name: str, results: list[dict]) -> list[str]:
    time_s = results[0]["mean_time_s"]
    counts = [f"{result['solved']}/{result['episodes']}" for result in results]
    return [name, *counts, "-" if time_s is None else f"{time_s:.1f}"]


if __name__ == "__main__":
    main()
