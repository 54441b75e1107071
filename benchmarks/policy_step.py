# SPDX-License-Identifier: Apache-2.0
"""The cost of a step: encoding only the newest frame, against encoding the whole window at every step.

Both run the same policy on the same observations, in turns, in one process. "ours" is a step of PolicyRunner, copies
included, with a full history; "whole window" gives `forward` the images of the last W frames and takes its last chunk,
as a policy without cached features does. Sizes: the compact backbone, and a vision-language model (LLaVA's
architecture, random weights) small enough for a CPU, in every history mode.

With --upstream, the same weights also run in RoboVLMs' own code (KosMos-2 and its LSTM head, imported as by `vla
import-robovlms`), in a separate process, in turns, with one thread and with images and tokens already prepared. It
needs its own environment: `pip install torch einops transformers==4.37.2 'numpy<2'`, and a clone of
github.com/Robot-VLAs/RoboVLMs.

    python benchmarks/policy_step.py --json benchmarks/results/policy_step.json
    python benchmarks/policy_step.py --upstream RoboVLMs --upstream-python ENVIRONMENT/bin/python
    python benchmarks/policy_step.py --device cuda --precision auto --compile auto      # with a GPU
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
from vla_ros.policy.acceleration import COMPILES, PRECISIONS, choose_acceleration
from vla_ros.policy.config import PolicyConfig, VlmConfig
from vla_ros.policy.inference import PolicyRunner
from vla_ros.policy.policy import Policy
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
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="steps per round (default: %(default)s)")
    parser.add_argument("--upstream", type=Path, metavar="DIR", help="a clone of RoboVLMs to compare with")
    parser.add_argument(
        "--upstream-python", type=Path, metavar="FILE", help="Python interpreter of RoboVLMs' environment"
    )
    parser.add_argument("--json", type=Path, help="results file")
    arguments = parser.parse_args()
    if (arguments.upstream is None) != (arguments.upstream_python is None):
        raise SystemExit("--upstream and --upstream-python must be used together")
    torch.set_num_threads(1)
    print(LINE.format(*COLUMNS))
    rows = whole_windows(arguments)
    if arguments.upstream:
        rows += beside_upstream(arguments)
    else:
        print("skipped: RoboVLMs' own code (pass --upstream and --upstream-python)")
    if arguments.json:
        write(arguments, rows)


COLUMNS = ("backbone, history mode, head", "W", "ours [ms]", "against", "its [ms]", "ratio", "difference", "how")
LINE = "{:32} {:>3} {:>8} {:14} {:>8} {:>6} {:>19}  {}"


def write(arguments: argparse.Namespace, rows: list[tuple]) -> None:
    """Write the results."""
    beside = (
        f"RoboVLMs: its own code (KosMos-2 of twice {LAYERS} layers of width {WIDTH}, LSTM of 4 layers of "
        f"{upstream_policy.HIDDEN}) on the same weights and images, without the resizing and tokenizing that it "
        "repeats at every step; interleaved, its sequence differs (it repeats the command for every frame), so "
        "only the times compare. Its video mode does not run."
        if arguments.upstream
        else "Not compared with RoboVLMs' own code: no --upstream was given."
    )
    figures.write(
        arguments.json,
        title="A policy step, encoding only the newest frame",
        runs=arguments.rounds,
        note=f"Milliseconds per step with a full history of W frames, median of {arguments.rounds} rounds of "
        f"{arguments.steps} steps each, interleaved; one CPU thread. Whole window: the same policy, given the "
        "images of all W frames at every step, in the same precision, in eager mode. If the model fuses time "
        f"itself, only the vision tower is saved. The vision-language model has twice {LAYERS} layers of width "
        f"{WIDTH} and random weights: the ratio is what counts. In a model of width 32, overhead outweighs the "
        f"saving: down to 0.7 in the video mode. {beside} Difference: the largest in normalised actions (range 2), "
        "over more steps than the window.",
        columns=COLUMNS,
        rows=rows,
    )


def row(name: str, window: int, ours: float, beside: str, its: float, difference: str, how: str) -> tuple:
    """Print and return a row of the table."""
    line = (name, window, f"{ours:.2f}", beside, f"{its:.2f}", f"{its / ours:.2f}", difference, how)
    print(LINE.format(*line), flush=True)
    return line


def whole_windows(arguments: argparse.Namespace) -> list[tuple]:
    """Return a row for each policy and window, against the same policy encoding the whole window."""
    rows = []
    for name, shape in POLICIES.items():
        for window in arguments.windows:
            acceleration = choose_acceleration(arguments.device, arguments.precision, arguments.compile)
            runner = PolicyRunner(make(*shape, window), acceleration)
            runner.warm_up()
            chosen = runner.acceleration
            ours, whole, difference = compare(runner, window, arguments.rounds, arguments.steps)
            how = f"{chosen.device}, {chosen.precision}, {chosen.compile}"
            rows.append(row(name, window, ours, "whole window", whole, f"{difference:.0e}", how))
    return rows


def beside_upstream(arguments: argparse.Namespace) -> list[tuple]:
    """Return a row for each history mode and window, against RoboVLMs' own code."""
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
                    raise SystemExit("the actions hardly depend on the images, so equality would mean little")
                if mode == "policy_head" and not difference < ALLOWED:
                    raise SystemExit(f"normalised actions differ by {difference:.2g}, more than {ALLOWED}")
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
    """Return a policy with random weights, the same on every call."""
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
    """Return the median milliseconds of a step of both, and their difference; exit if it is not negligible."""
    observed = observations(runner.contract, window)
    whole_window = whole_window_step(runner, observed)
    newest = stream(runner, observed)[-1]
    difference = np.abs(newest[:, :6] - whole_window()[:, :6].clip(-1, 1)).max()
    allowed = ALLOWED if runner.acceleration.precision == "fp32" else 0.1
    if not difference < allowed:
        raise SystemExit(f"normalised actions differ by {difference:.2g}, more than {allowed}")
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
    """Return a function from the images of all frames to the normalised chunk (N, 7), host to host."""
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
