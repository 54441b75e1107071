# SPDX-License-Identifier: Apache-2.0
"""Convert weights trained with RoboVLMs (KosMos-2 with an LSTM head) to a checkpoint folder.

vla import-robovlms cont.pt project.json --vlm kosmos-2-patch14-224 \
    --control-hz 30 --linear-mps 0.6 --angular-radps 1.5 --output checkpoints/kosmos

RoboVLMs does not record what an action of 1 means. For CALVIN it is 0.02 m and 0.05 rad per step of 1/30 s, that is
0.6 m/s and 1.5 rad/s. Its CALVIN labels are increments of Euler angles, which the contract cannot express: see
docs/policies.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("weights", type=Path, help="checkpoint file (.pt, .ckpt); only tensors are read")
    add("config", type=Path, help="RoboVLMs' JSON config")
    add("--vlm", required=True, help="folder or hub ID of the KosMos-2 model it was trained from")
    add("--output", type=Path, required=True, help="checkpoint folder to write")
    add("--control-hz", type=float, required=True, help="control rate of the policy")
    add("--linear-mps", type=float, required=True, help="m/s for a translation of 1")
    add("--angular-radps", type=float, required=True, help="rad/s for a rotation of 1")
    add("--frame", choices=("base", "tool"), help="frame of the twists (default: from tcp_rel in the config)")


def run(args: argparse.Namespace) -> int:
    from vla_ros.policy.checkpoint import save_checkpoint
    from vla_ros.policy.robovlms import Motion, import_policy, read_weights
    from vla_ros.policy.robovlms_config import read_config

    training = read_config(args.config)
    frame = args.frame or ("tool" if training.in_tool_frame else "base")
    motion = Motion(args.control_hz, args.linear_mps, args.angular_radps, frame)
    policy = import_policy(read_weights(args.weights), training, args.vlm, motion)
    save_checkpoint(args.output, policy)
    timing, cameras = policy.contract.timing, ", ".join(policy.contract.camera_names)
    print(f"checkpoint: {args.output} (cameras {cameras}; {timing.history} frames, chunks of {timing.chunk} actions)")
    return 0
