# SPDX-License-Identifier: Apache-2.0
"""Does every combination of backbone family, history mode and head really work? Checked with tiny random networks.

step      one optimizer step changes the weights of backbone and head, with a finite loss
overfits  the loss on 8 windows falls below half its first value (of the prediction, not of a sample)
stream    stepping frame by frame as on the robot equals the window, over more frames than the window has
reload    exported as a checkpoint folder and loaded again, it returns the same bits
node      the policy node accepts the folder (checks against the robot file, runner) and returns a chunk

One-step is the policy-head mode with a history of one frame. Unsupported combinations are listed with the reason. A
cell says "yes" if all checks pass and otherwise names those that fail. With --json, finished cells are kept when the
script is restarted, and failed ones checked again.

    python benchmarks/policy_matrix.py --backbones compact llava --json runs/policy_matrix.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import figures
import numpy as np
import torch
from torch import Tensor

from vla_ros.contract import ActionSpace, Camera, Language, PolicyContract, Proprioception, Provenance, Timing
from vla_ros.nodes.policy import loading
from vla_ros.observations.observation import Observation
from vla_ros.policy.augmentation import AugmentConfig
from vla_ros.policy.checkpoint import load_checkpoint, save_checkpoint
from vla_ros.policy.config import (
    CompactConfig,
    DiscreteConfig,
    FlowConfig,
    GptConfig,
    LossConfig,
    LstmConfig,
    MlpConfig,
    PolicyConfig,
    RobovlmsConfig,
    VlmConfig,
)
from vla_ros.policy.heads import HEADS
from vla_ros.policy.module import Batch, VLAModule
from vla_ros.policy.policy import Policy
from vla_ros.policy.tokenizer import CommandTokenizer
from vla_ros.policy.tuning import OptimizerConfig
from vla_ros.robot import load_robot

sys.path.insert(0, str(Path(__file__).parents[1] / "test" / "support"))
from tiny_models import IMAGE_PX, TINY_MODELS

HISTORY, CHUNK, WINDOWS = 3, 2, 8
MODES = ("one_step", "policy_head", "interleaved", "video")
CHECKS = ("step", "overfits", "stream", "reload", "node")
COMMANDS = ("pick up the red block", "open the drawer")
NOT_FUSED = "no: sees single frames"
SEES_ALL = "no: would see the future"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    backbones = ["compact", *TINY_MODELS]
    parser.add_argument("--backbones", nargs="+", default=backbones, choices=backbones, metavar="NAME")
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=list(HEADS), metavar="NAME")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES, metavar="NAME")
    parser.add_argument(
        "--steps", type=int, default=300, help="maximum optimizer steps to overfit (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="results file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cells, started_s = finished(arguments.json), time.monotonic()
    wanted = [(b, m, h) for b in arguments.backbones for m in arguments.modes for h in arguments.heads]
    for backbone, mode, head in wanted:
        name = f"{backbone} {mode} {head}"
        if cells.get(name, "NO").startswith("NO"):
            cells[name] = why_not(backbone, mode) or verdict(check(make_policy(backbone, mode, head), arguments.steps))
            print(f"{backbone:12} {mode:12} {head:9} {cells[name]}", flush=True)
            if arguments.json:
                write(arguments.json, cells)
    failed = sum(cells[" ".join(name)].startswith("NO") for name in wanted)
    print(f"{len(wanted)} combinations, {failed} failed, {time.monotonic() - started_s:.0f} s")
    return 1 if failed else 0


def finished(file: Path | None) -> dict[str, str]:
    """Return the cells ``file`` holds from an earlier start, by "backbone mode head"."""
    return dict(json.loads(file.read_text())["details"]) if file and file.exists() else {}


def verdict(passed: Sequence[bool]) -> str:
    failed = [name for name, good in zip(CHECKS, passed, strict=True) if not good]
    return "NO: " + ", ".join(failed) if failed else "yes"


def write(file: Path, cells: Mapping[str, str]) -> None:
    """Write the table: a row for each backbone and history mode, a column for each head."""
    lines = [(b, m) for b in ("compact", *TINY_MODELS) for m in MODES if any(f"{b} {m} {h}" in cells for h in HEADS)]
    figures.write(
        file,
        title="Supported combinations",
        runs=1,
        note="Tiny random networks on 8 windows of noise; yes means: " + "; ".join(
            " ".join(line.split()[1:]) for line in (__doc__ or "").split("\n\n")[1].split("\n")) + ".",
        columns=("backbone", "history mode", *HEADS),
        rows=[(b, m, *(cells.get(f"{b} {m} {h}", "") for h in HEADS)) for b, m in lines],
        details=dict(cells),
    )  # fmt: skip


def why_not(backbone: str, mode: str) -> str:
    """Return why a combination is unsupported, or an empty string."""
    if mode in ("interleaved", "video"):
        return {"compact": NOT_FUSED, "florence2": SEES_ALL}.get(backbone, "")
    return ""


def make_policy(backbone: str, mode: str, head: str) -> Policy:
    """Return a tiny policy with random weights, the same on every call."""
    torch.manual_seed(0)
    tokenizer = CommandTokenizer.train(COMMANDS, 400)
    kind = "compact" if backbone == "compact" else "vlm"
    contract = PolicyContract(
        cameras=tuple(Camera(name, IMAGE_PX, IMAGE_PX) for name in ("static", "wrist")),
        proprioception=Proprioception(("ee_x", "gripper_opening"), ("m", "1"), (0.5, 0.5), (0.3, 0.3)),
        language=Language("{command}", tokenizer.identity, 16),
        timing=Timing(control_hz=10.0, history=1 if mode == "one_step" else HISTORY, chunk=CHUNK),
        action=ActionSpace(low=(-1.0,) * 6, high=(1.0,) * 6),
        provenance=Provenance(kind, "from scratch", head, "sha256:0", "0"),
    )
    config = PolicyConfig(
        backbone=kind,
        head=head,
        compact=CompactConfig(channels=(8, 8, 8, 8), keypoints=8, text_size=16, feature_size=32, dropout=0.0),
        vlm=VlmConfig(model=TINY_MODELS.get(backbone, {}), history_mode="policy_head" if mode == "one_step" else mode),
        mlp=MlpConfig(mlp_size=64, layers=2),
        lstm=LstmConfig(hidden_size=32, mlp_size=64),
        robovlms=RobovlmsConfig(hidden_size=32, layers=2, mlp_sizes=(64,)),
        gpt=GptConfig(width=32, layers=2, attention_heads=4),
        discrete=DiscreteConfig(hidden_size=32, mlp_size=64, token_size=16),
        flow=FlowConfig(hidden_size=32, width=64, blocks=2, integration_steps=4),
    )
    return Policy(contract, config, tokenizer)


def make_batch(policy: Policy) -> Batch:
    """Return eight windows of noise; targets depend on the window only, so that every mode can learn them."""
    history = policy.contract.timing.history
    tokens, token_mask = policy.tokenize([COMMANDS[index % 2] for index in range(WINDOWS)])
    pixels = (WINDOWS, history, IMAGE_PX, IMAGE_PX, 3)
    actions = (torch.rand(WINDOWS, 1, 1, 7) * 1.6 - 0.8).repeat(1, history, CHUNK, 1)
    actions[..., 6] = (actions[..., 6] > 0).float()
    return {
        "images": {name: torch.randint(0, 256, pixels, dtype=torch.uint8) for name in ("static", "wrist")},
        "proprioception": torch.rand(WINDOWS, 1, 2).repeat(1, history, 1),
        "tokens": tokens,
        "token_mask": token_mask,
        "actions": actions,
        "action_valid": torch.ones(WINDOWS, history, CHUNK, dtype=torch.bool),
        "valid": torch.ones(WINDOWS, history, dtype=torch.bool),
    }


def check(policy: Policy, steps: int) -> tuple[bool, ...]:
    """Return the results of ``CHECKS``."""
    batch = make_batch(policy)
    module = VLAModule(
        policy,
        max_steps=steps,
        optimizer=OptimizerConfig(learning_rate=3e-3, weight_decay=0.0, warmup_steps=5),
        loss=LossConfig(),
        augment=AugmentConfig(brightness=0.0, contrast=0.0, proprioception_noise=0.0),
    )
    module.log = module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]  # there is no trainer
    before = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    errors = train(module, batch, steps)
    first = next(errors)
    now = dict(policy.named_parameters())
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, now[name])}
    finite = all(bool(torch.isfinite(value).all()) for value in now.values())
    overfits = any(error < 0.5 * first for error in errors)
    policy.eval()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        save_checkpoint(checkpoint, policy)
        exported = reloads(policy, checkpoint), runs_as_in_the_node(checkpoint)
    return (changed == {"backbone", "head"} and finite), overfits, streams(policy), *exported


def train(module: VLAModule, batch: Batch, steps: int) -> Iterator[float]:
    """Take optimizer steps; yield the arm's error on the batch after the first and every 10th."""
    optimizer = module.configure_optimizers()["optimizer"]  # type: ignore[index, call-overload]
    for step in range(steps):
        module.train()
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0:
            yield error_of(module, batch)


@torch.no_grad()
def error_of(module: VLAModule, batch: Batch) -> float:
    """Return the mean absolute error of the predicted arm."""
    policy = module.policy.eval()
    inputs, tokens, _ = module.network_inputs(batch, training=False)
    readout = inputs.read(policy, policy.encode_text(tokens, batch["token_mask"]))
    predicted = policy.head(readout.features, readout.valid).arm
    return float((predicted - readout.pick(batch["actions"])[..., :6]).abs().mean())


@torch.no_grad()
def streams(policy: Policy) -> bool:
    """Return whether steps equal the window, at every frame of a stream longer than two windows."""
    history = policy.contract.timing.history
    count = 2 * history + 2
    images, proprioception = _frames(count)
    text = policy.encode_text(*policy.tokenize(COMMANDS[:1]))
    state: Tensor | None = None
    for t in range(count):
        streamed, state = policy.step(
            {n: x[t : t + 1] for n, x in images.items()}, proprioception[t : t + 1], text, state
        )
        rows = list(range(max(0, t + 1 - history), t + 1))
        padded = rows + [rows[-1]] * (history - len(rows))
        valid = torch.arange(history)[None] < len(rows)
        window = {name: x[padded][None] for name, x in images.items()}
        readout = policy.read(window, proprioception[padded][None], text, valid)
        whole = policy.head(readout.features, readout.valid).arm[:, int(readout.valid.sum()) - 1]
        if not torch.allclose(streamed.arm, whole, atol=1e-4, rtol=1e-3):
            return False
    return True


@torch.no_grad()
def reloads(policy: Policy, checkpoint: Path) -> bool:
    """Return whether the checkpoint returns the same bits."""
    loaded = load_checkpoint(checkpoint)
    images, proprioception = _frames(1)
    outputs = []
    for network in (policy, loaded):
        text = network.encode_text(*network.tokenize(COMMANDS[:1]))
        outputs.append(network.step(images, proprioception, text, None)[0])
    return torch.equal(outputs[0].arm, outputs[1].arm) and torch.equal(
        outputs[0].gripper_logit, outputs[1].gripper_logit
    )


def runs_as_in_the_node(checkpoint: Path) -> bool:
    """Return whether the policy node accepts it and its runner gives finite chunks beyond the window."""
    contract = loading.load_contract(str(checkpoint), load_robot("tabletop"))
    runner = loading.load_runner(str(checkpoint), "cpu")
    runner.warm_up()
    runner.reset(COMMANDS[0])
    random, chunks = np.random.default_rng(2), []
    for _ in range(HISTORY + 2):
        pixels = {n: random.integers(0, 256, (IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8) for n in contract.camera_names}
        state = np.full(2, 0.5, np.float32)
        chunks.append(runner.step(Observation(0, pixels, {}, proprioception=state, command=COMMANDS[0])))
    return all(chunk.shape == (CHUNK, 7) and bool(np.isfinite(chunk).all()) for chunk in chunks)


def _frames(count: int) -> tuple[dict[str, Tensor], Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn(count, 3, IMAGE_PX, IMAGE_PX) for name in ("static", "wrist")}, torch.rand(count, 2)


if __name__ == "__main__":
    sys.exit(main())
