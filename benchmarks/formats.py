# SPDX-License-Identifier: Apache-2.0
"""Does the format of demonstrations matter? The same episodes as bags, CALVIN and RLDS, fine-tuned on and rolled out.

Bags of a task that the starting checkpoint cannot do are read as in training and written in the two other formats. All
three are read back by their own readers and compared; the checkpoint is fine-tuned on each with several seeds and
rolled out in the simulator, in scenes that no demonstration contains.

  CALVIN  each control period becomes three steps at 30 Hz, with rel_actions that carry out its twist
  RLDS    measured tool poses at the control rate; labels are their motion, as in all RLDS data sets here

    vla record-demo --task push_away_red --episodes 50 --output bags/novel
    python benchmarks/formats.py --bags bags/novel --json benchmarks/results/formats.json
"""

from __future__ import annotations

import argparse
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import figures
import google_crc32c
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from vla_ros import resources
from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.bags.reader import bag_shards
from vla_ros.datasets.calvin.reader import RATE_HZ, STEP_M, STEP_RAD, calvin_shards
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.rlds import catalogue
from vla_ros.datasets.rlds.reader import rlds_shards
from vla_ros.datasets.shards import SourceShard
from vla_ros.datasets.store.store import load_shards
from vla_ros.evaluation.closed_loop.config import Condition, EvaluationConfig
from vla_ros.evaluation.closed_loop.rollouts import request_rollouts, run_rollouts
from vla_ros.evaluation.protocols.intervals import wilson_interval
from vla_ros.robot import load_robot
from vla_ros.train.config import TrainConfig
from vla_ros.train.fit import fit
from vla_ros.train.initial_policy import observation_spec
from vla_ros.train.recipes import load_config

sys.path.insert(0, str(Path(__file__).parents[1] / "test" / "support"))
import tiny_datasets  # the writers of the tests

STATES = (*(f"ee_{axis}" for axis in "xyz"), *(f"ee_r{index}" for index in range(6)), "gripper_opening")
OPEN_WIDTH_M = 0.08
FORMATS = ("bags", "calvin", "rlds")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bags", type=Path, nargs="+", required=True, metavar="PATH", help="bags of the task")
    parser.add_argument("--task", default="push_away_red", help="task in the bags (default: %(default)s)")
    parser.add_argument(
        "--checkpoint", default="config/checkpoints/tabletop", help="checkpoint to fine-tune (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="training runs per format (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="steps per training run (default: %(default)s)")
    parser.add_argument("--rollouts", type=int, default=20, help="rollouts per checkpoint (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="results file")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        config = recipe(args.checkpoint, args.steps, Path(scratch))
        episodes = in_all_formats(args.bags, *observation_spec(config), Path(scratch))
        compared = {name: differences(episodes["bags"], episodes[name]) for name in FORMATS}
        before = roll_out(args.checkpoint, args.task, args.rollouts)
        print(f"before: {before}/{args.rollouts}", flush=True)
        results: dict[str, list[int]] = {name: [] for name in FORMATS}
        started_s = time.monotonic()
        for seed in range(args.seeds):
            for name in FORMATS:
                checkpoint = fit(recipe(args.checkpoint, args.steps, Path(scratch), seed, name), episodes[name])
                results[name].append(roll_out(str(checkpoint), args.task, args.rollouts))
                print(f"{name}, seed {seed}: {results[name][-1]}/{args.rollouts}", flush=True)
    rows = [row(name, results[name], args.rollouts, compared[name]) for name in FORMATS]
    for line in rows:
        print("  ".join(line))
    if args.json:
        figures.write(
            args.json,
            title="The same episodes as bags, CALVIN and RLDS",
            runs=args.seeds,
            columns=["format", "successes by seed", "success, 95 % interval", "frames", "pixels", "states", "actions"],
            rows=rows,
            note=f"{args.task}, {before}/{args.rollouts} before; {len(episodes['bags'])} episodes, {args.steps} "
            f"fine-tuning steps per seed, then {args.rollouts} rollouts in new scenes with held-out phrasings. "
            "Pixels, states, actions: largest difference from the bags (of 255; m and 1; m/s and rad/s). RLDS "
            "labels are measured motion, not commands.",
            details={"before": before, "compared": compared, "results": results,
                     "seconds": time.monotonic() - started_s},
        )  # fmt: skip


def recipe(checkpoint: str, steps: int, output: Path, seed: int = 0, name: str = "any") -> TrainConfig:
    """Return the shipped fine-tuning recipe, shortened, training on every episode and without rehearsal."""
    overrides = [f'init_from="{checkpoint}"', f'output="{output}"', f'name="{name}{seed}"', f"seed={seed}",
                 f"trainer.max_steps={steps}", f"optimizer.warmup_steps={steps // 10}", "trainer.ema_decay=0.98",
                 "data.validation_fraction=0.0", "trainer.threads=1"]  # fmt: skip
    return load_config(resources.path("config/train") / "finetune.json", overrides)


def in_all_formats(
    bags: Sequence[Path], spec: ObservationSpec, timing: Timing, scratch: Path
) -> dict[str, list[Episode]]:
    """Read the bags, write their episodes in the other formats, and read those back."""
    if spec.proprioception != STATES or timing.control_hz != 10:
        raise SystemExit(f"the checkpoint samples {spec.proprioception} at {timing.control_hz} Hz; this needs {STATES}")

    def read(parts: list[SourceShard]) -> list[Episode]:
        return load_shards(parts, scratch / "store", workers=1).episodes

    found = {"bags": read(bag_shards(bags, load_robot("tabletop"), spec, timing))}
    write_calvin(scratch / "calvin", found["bags"])
    found["calvin"] = read(calvin_shards(scratch / "calvin", spec, timing))
    catalogue.DATASETS["tabletop_sim"] = OWN_DATASET
    write_rlds(scratch / "rlds", found["bags"])
    found["rlds"] = read(rlds_shards(scratch / "rlds", spec, timing))
    return found


def poses_of(episode: Episode) -> tuple[NDArray[np.float64], Rotation, NDArray[np.float64]]:
    """Return positions (T, 3), rotations and gripper openings (T,) from the states."""
    states = episode.proprioception.astype(np.float64)
    columns = states[:, 3:9].reshape(-1, 2, 3)
    matrices = np.stack([columns[:, 0], columns[:, 1], np.cross(columns[:, 0], columns[:, 1])], axis=2)
    return states[:, :3], Rotation.from_matrix(matrices), states[:, 9]


def write_calvin(split: Path, episodes: Sequence[Episode]) -> None:
    """Write a split as CALVIN's authors do: one npz per step, and pickled annotations."""
    substeps = int(RATE_HZ) // 10
    (split / "lang_annotations").mkdir(parents=True)
    bounds, number = [], 0
    for episode in episodes:
        positions, rotations, openings = poses_of(episode)
        bounds.append((number, number + substeps * len(episode)))
        for tick, action in enumerate(episode.actions):
            turn = Rotation.from_rotvec(action[3:6] / float(RATE_HZ))
            position, rotation = positions[tick], rotations[tick]
            for _ in range(substeps):
                angles = rotation.as_euler("xyz")
                rotation = turn * rotation
                turned = (rotation.as_euler("xyz") - angles + np.pi) % (2 * np.pi) - np.pi
                moved = action[:3] / float(RATE_HZ)
                relative = np.concatenate([moved / STEP_M, turned / STEP_RAD, [1.0 if action[6] > 0.5 else -1.0]])
                state = np.zeros(15)
                state[:7] = (*position, *angles, openings[tick] * OPEN_WIDTH_M)
                position = position + moved
                np.savez(
                    split / f"episode_{number:07d}.npz",
                    rgb_static=episode.images["static"][tick], rgb_gripper=episode.images["wrist"][tick],
                    rel_actions=relative, robot_obs=state,
                )  # fmt: skip
                number += 1
    annotations = {
        "language": {"ann": [episode.command for episode in episodes], "task": [episode.task for episode in episodes]},
        "info": {"episodes": [], "indx": bounds},
    }
    np.save(split / "lang_annotations" / "auto_lang_ann.npy", annotations, allow_pickle=True)  # type: ignore[arg-type]
    np.save(split / "ep_start_end_ids.npy", np.array([(start, stop - 1) for start, stop in bounds]))


# As a lab adds its own data set (docs/data.md).
OWN_DATASET = catalogue.DatasetSpec(
    rate_hz=Fraction(10),
    cameras={"static": "observation/image", "wrist": "observation/wrist_image"},
    commands=("language_instruction",),
    numbers={"observation/pose": 7, "observation/opening": 1, "action/gripper": 1},
    poses=lambda numbers: numbers["observation/pose"],
    grippers=lambda numbers: (numbers["action/gripper"][:, 0] > 0.5).astype(np.float64),
    openings=lambda numbers: numbers["observation/opening"][:, 0],
)


def write_rlds(folder: Path, episodes: Sequence[Episode]) -> None:
    """Write a shard of TFRecords with PNG images and float32 numbers."""
    folder.mkdir(parents=True)
    with (folder / "tabletop_sim-train.tfrecord-00000-of-00001").open("wb") as file:
        for episode in episodes:
            positions, rotations, openings = poses_of(episode)
            features: dict[str, list[Any]] = {
                "steps/observation/pose": np.concatenate([positions, rotations.as_quat()], axis=1).ravel().tolist(),
                "steps/observation/opening": openings.tolist(),
                "steps/action/gripper": episode.actions[:, 6].tolist(),
                "steps/language_instruction": [episode.command.encode()] * len(episode),
            }
            for camera, name in OWN_DATASET.cameras.items():
                pictures = episode.images[camera]
                features[f"steps/{name}"] = [
                    cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes() for picture in pictures
                ]
            record = tiny_datasets.encoded(features)
            length = struct.pack("<Q", len(record))
            file.write(length + masked_crc(length) + record + masked_crc(record))


def masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def differences(expected: Sequence[Episode], found: Sequence[Episode]) -> dict[str, float]:
    """Return the largest differences between two readings of the same episodes, over their common frames.

    Raises:
        SystemExit: they are not the same episodes.
    """
    if [episode.command for episode in expected] != [episode.command for episode in found]:
        raise SystemExit(f"{len(found)} episodes instead of {len(expected)}, or different commands")
    largest = {"frames": float(sum(map(len, found))), "pixels": 0.0, "states": 0.0, "gripper": 0.0, "actions": 0.0}
    errors = []
    for one, other in zip(expected, found, strict=True):
        shared = slice(min(len(one), len(other)))
        for camera in one.images:
            difference = np.abs(one.images[camera][shared].astype(int) - other.images[camera][shared]).max()
            largest["pixels"] = max(largest["pixels"], float(difference))
        errors.append(np.abs(one.actions[shared, :6] - other.actions[shared, :6]))
        states = np.abs(one.proprioception[shared] - other.proprioception[shared]).max()
        gripper = np.abs((one.actions[shared, 6] > 0.5) - (other.actions[shared, 6] > 0.5).astype(float)).max()
        largest |= {"states": max(largest["states"], float(states)), "gripper": max(largest["gripper"], float(gripper))}
    everywhere = np.concatenate(errors)
    return {**largest, "actions": float(everywhere.max()), "actions_mean": float(everywhere.mean())}


def roll_out(checkpoint: str, task: str, rollouts: int) -> int:
    """Return the successes in new scenes, in process."""
    config = EvaluationConfig(checkpoint, rollouts=rollouts, workers=1)
    return sum(outcome.success for outcome in run_rollouts(config, Condition(), request_rollouts(config, [task])))


def row(name: str, successes: Sequence[int], rollouts: int, compared: dict[str, float]) -> list[str]:
    count, total = sum(successes), len(successes) * rollouts
    low, high = wilson_interval(count, total)
    return [
        name,
        ", ".join(map(str, successes)),
        f"{count}/{total}, {low:.0%} to {high:.0%}",
        f"{compared['frames']:.0f}",
        f"{compared['pixels']:.0f}",
        f"{compared['states']:.1g}",
        f"{compared['actions']:.1g} (mean {compared['actions_mean']:.1g})",
    ]


if __name__ == "__main__":
    main()
