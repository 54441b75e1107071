# SPDX-License-Identifier: Apache-2.0
"""What a step costs: encoding only the newest frame, beside encoding the whole window again at every step.

Both run the same policy on the same observations, in turns, in one process. "ours" is a step of PolicyRunner, copies
and all, with a full history; "whole window" gives `forward` the pictures of the last W frames and reads its last chunk,
as a policy does that keeps no features. Sizes: the compact backbone, and a vision-language model (LLaVA's layout,
random weights) small enough for a CPU, in every history mode.

With --upstream, the same weights run in RoboVLMs' own code too (KosMos-2 and its LSTM head, imported as `vla
import-robovlms` does it), in a process of its own, in turns. It gets pictures and tokens that are ready; one thread. It
needs an environment of its own: `pip install torch einops transformers==4.37.2 'numpy<2'`, and a clone of
github.com/Robot-VLAs/RoboVLMs.

    python benchmarks/policy_step.py --json benchmarks/results/policy_step.json
    python benchmarks/policy_step.py --upstream RoboVLMs --upstream-python ENVIRONMENT/bin/python
    python benchmarks/policy_step.py --device cuda --precision auto --compile auto      where there is a GPU
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import figures
import numpy as np
import torch
import upstream_policy

from vla_ros.contract import ActionSpace, Camera, Language, PolicyContract, Proprioception, Provenance, Timing
from vla_ros.imaging import images
from vla_ros.observations.observation import Observation
from vla_ros.policy.acceleration import COMPILES, PRECISIONS
from vla_ros.policy.config import PolicyConfig, VlmConfig
from vla_ros.policy.policy import Policy
from vla_ros.policy.runner import PolicyRunner
from vla_ros.policy.tokenizer import CommandTokenizer

COMMAND, CHUNK = upstream_policy.COMMAND, 8
ALLOWED = 1e-4  # difference of normalised actions
WIDTH, LAYERS = 192, 4
VLM = {
    "model_type": "llava",
    "text_config": {
        "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    },
    "vision_config": {
        "model_type": "clip_vision_model", "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": LAYERS, "num_attention_heads": 4, "image_size": 96, "patch_size": 16,
    },
    "image_token_index": 500,
}  # fmt: skip
# name -> backbone, history mode, head
POLICIES = {
    "compact, policy_head, lstm": ("compact", "policy_head", "lstm"),
    "small vlm, policy_head, lstm": ("vlm", "policy_head", "lstm"),
    "small vlm, interleaved, lstm": ("vlm", "interleaved", "lstm"),
    "small vlm, video, mlp": ("vlm", "video", "mlp"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS)
    parser.add_argument("--compile", default="auto", choices=COMPILES)
    parser.add_argument("--windows", type=int, nargs="+", default=[8, 16], metavar="W", help="frames of history")
    parser.add_argument("--rounds", type=int, default=9, help="of each, in turns (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="per round (default: %(default)s)")
    parser.add_argument("--upstream", type=Path, metavar="DIR", help="a clone of RoboVLMs to compare with")
    parser.add_argument("--upstream-python", type=Path, metavar="FILE", help="the Python that can run it")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    if (arguments.upstream is None) != (arguments.upstream_python is None):
        raise SystemExit("--upstream and --upstream-python go together")
    torch.set_num_threads(1)
    print(LINE.format(*COLUMNS))
    rows = whole_windows(arguments)
    if arguments.upstream:
        rows += beside_upstream(arguments)
    else:
        print("skipped: RoboVLMs' own code (give --upstream and --upstream-python)")
    if arguments.json:
        write(arguments, rows)


COLUMNS = ("backbone, history mode, head", "W", "ours ms", "beside", "its ms", "ratio", "largest difference", "how")
LINE = "{:32} {:>3} {:>8} {:14} {:>8} {:>6} {:>19}  {}"


def write(arguments: argparse.Namespace, rows: list[tuple]) -> None:
    """Write the figures."""
    beside = (
        f"RoboVLMs: its own code (KosMos-2 of {LAYERS} layers of {WIDTH} in either part, LSTM of 4 layers of "
        f"{upstream_policy.HIDDEN}) on the same weights and pictures, without its resizing and its tokenizer, which "
        "run at every step there; interleaved, its sequence is another one (the command again for every frame), so "
        "only the time compares. Its video mode does not run."
        if arguments.upstream
        else "Not compared with RoboVLMs' own code: no --upstream was given."
    )
    figures.write(
        arguments.json,
        title="A step of a policy, encoding the newest frame only",
        runs=arguments.rounds,
        note=f"Milliseconds per step with a full history of W frames, median of {arguments.rounds} rounds of "
        f"{arguments.steps} steps each, in turns; one CPU thread. Whole window: the same policy, given the "
        "pictures of all W frames at every step, in the same precision, operation by operation. Where the model "
        "fuses time itself, what is saved is the vision tower. The vision-language model "
        f"has {LAYERS} layers of {WIDTH} in either part and random weights: the ratio is what counts. In a "
        f"toy of width 32, overhead outweighs what is saved: down to 0.7 in the video mode. {beside} Difference: of "
        "normalised actions, whose range is 2, over more steps than the window.",
        columns=COLUMNS,
        rows=rows,
    )


def row(name: str, window: int, ours: float, beside: str, its: float, difference: str, how: str) -> tuple:
    """Return a line of the table, printed."""
    line = (name, window, f"{ours:.2f}", beside, f"{its:.2f}", f"{its / ours:.2f}", difference, how)
    print(LINE.format(*line), flush=True)
    return line


def whole_windows(arguments: argparse.Namespace) -> list[tuple]:
    """Return a line for each policy and window, beside itself encoding the whole window."""
    rows = []
    for name, shape in POLICIES.items():
        for window in arguments.windows:
            runner = PolicyRunner(make(*shape, window), arguments.device, arguments.precision, arguments.compile)
            runner.warm_up()
            chosen = runner.acceleration
            ours, whole, difference = compare(runner, window, arguments.rounds, arguments.steps)
            how = f"{chosen.device}, {chosen.precision}, {chosen.compile}"
            rows.append(row(name, window, ours, "whole window", whole, f"{difference:.0e}", how))
    return rows


def beside_upstream(arguments: argparse.Namespace) -> list[tuple]:
    """Return a line for each history mode and window, beside RoboVLMs' own code."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        theirs = upstream_policy.Upstream(arguments.upstream, arguments.upstream_python, Path(folder))
        for mode, windows in (("policy_head", [1, *arguments.windows]), ("interleaved", arguments.windows)):
            for window in windows:
                policy, observed = theirs.build(mode, window)
                runner = PolicyRunner(policy)
                expected = theirs.outputs()
                difference = np.abs(stream(runner, observed) - expected).max()
                if not expected.std(axis=0).max() > 10 * ALLOWED:
                    raise SystemExit("the actions hardly depend on the pictures, so being equal would mean little")
                if mode == "policy_head" and not difference < ALLOWED:
                    raise SystemExit(f"the two differ by {difference:.2g} of normalised actions, more than {ALLOWED}")
                step = functools.partial(runner.step, observed[-1])
                took: tuple[list[float], list[float]] = ([], [])
                for _ in range(arguments.rounds):
                    took[0].append(milliseconds(step, arguments.steps))
                    took[1].append(theirs.milliseconds(arguments.steps))
                said = f"{difference:.0e}" if mode == "policy_head" else "another sequence"
                ours, its = map(statistics.median, took)
                rows.append(row(f"KosMos-2, {mode}, its lstm", window, ours, "RoboVLMs", its, said, "cpu, fp32, none"))
        theirs.close()
    return rows


def stream(runner: PolicyRunner, observed: list[Observation]) -> np.ndarray:
    """Return the normalised chunks (T, N, 7) of the steps through ``observed``; the gripper's opening in [0, 1]."""
    runner.reset(COMMAND)
    return np.stack([normalised(runner.contract, runner.step(observation)) for observation in observed])


def normalised(contract: PolicyContract, chunk: np.ndarray) -> np.ndarray:
    """Return a chunk (N, 7) in m/s and rad/s with the arm in [-1, 1] of the contract's bounds."""
    low, high = np.asarray(contract.action.low), np.asarray(contract.action.high)
    return np.concatenate([(chunk[:, :6] - low) / (high - low) * 2 - 1, chunk[:, 6:]], axis=1)


def make(backbone: str, mode: str, head: str, window: int) -> Policy:
    """Return a policy with random weights, the same ones at each call."""
    torch.manual_seed(0)
    tokenizer = CommandTokenizer.train([COMMAND], 300)
    contract = PolicyContract(
        cameras=(Camera("static", 96, 96), Camera("wrist", 96, 96)),
        proprioception=Proprioception(("ee_x", "gripper_opening"), ("m", "1"), (0.4, 0.5), (0.1, 0.5)),
        language=Language("{command}", tokenizer.identity, 16),
        timing=Timing(control_hz=10.0, history=window, chunk=CHUNK),
        action=ActionSpace(low=(-0.2,) * 6, high=(0.2,) * 6),
        provenance=Provenance(backbone, "random", head, "none", "0"),
    )
    vlm = VlmConfig(model=VLM, history_mode=mode)
    return Policy(contract, dataclasses.replace(PolicyConfig(), backbone=backbone, head=head, vlm=vlm), tokenizer)


def compare(runner: PolicyRunner, window: int, rounds: int, steps: int) -> tuple[float, float, float]:
    """Return the median milliseconds of a step of both and by how much they differ, which must be next to nothing."""
    observed = observations(runner.contract, window)
    whole_window = whole_window_step(runner, observed)
    newest = stream(runner, observed)[-1]
    difference = np.abs(newest[:, :6] - whole_window()[:, :6].clip(-1, 1)).max()
    allowed = ALLOWED if runner.acceleration.precision == "fp32" else 0.1
    if not difference < allowed:
        raise SystemExit(f"the two differ by {difference:.2g} of normalised actions, more than {allowed}")
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        took[0].append(milliseconds(lambda: runner.step(observed[-1]), steps))
        took[1].append(milliseconds(whole_window, max(2, steps // window)))
    return statistics.median(took[0]), statistics.median(took[1]), float(difference)


def observations(contract: PolicyContract, count: int) -> list[Observation]:
    draw = np.random.default_rng(0)
    return [
        Observation(
            time_ns=0,
            images={c.name: draw.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8) for c in contract.cameras},
            stamps_ns={},
            proprioception=draw.random(2).astype(np.float32),
            command=COMMAND,
        )
        for _ in range(count)
    ]


def whole_window_step(runner: PolicyRunner, observed: list[Observation]) -> Callable[[], np.ndarray]:
    """Return what predicts the normalised chunk (N, 7) from the pictures of all frames, from and to the host."""
    policy, chosen = runner._policy, runner.acceleration
    with torch.inference_mode(), chosen.autocast():
        text = policy.encode_text(*(tensor.to(chosen.device) for tensor in policy.tokenize([COMMAND])))

    @torch.inference_mode()
    def step() -> np.ndarray:
        stacked = {c: torch.from_numpy(np.stack([o.images[c.name] for o in observed])) for c in policy.contract.cameras}
        pixels = {camera.name: images.to_network(stack.to(chosen.device), camera) for camera, stack in stacked.items()}
        state = torch.from_numpy(np.stack([o.proprioception for o in observed])).to(chosen.device)
        valid = torch.ones((1, len(observed)), dtype=torch.bool, device=chosen.device)
        with chosen.autocast():
            readout = policy.read({n: x[None] for n, x in pixels.items()}, state[None], text, valid)
        prediction = policy.head.newest(readout.features.float(), readout.valid)
        return torch.cat([prediction.arm[0], prediction.gripper_logit[0].sigmoid()[:, None]], dim=-1).cpu().numpy()

    return step


def milliseconds(step: Callable[[], object], count: int) -> float:
    started_s = time.perf_counter()
    for _ in range(count):
        step()
    return 1e3 * (time.perf_counter() - started_s) / count


if __name__ == "__main__":
    main()
