# SPDX-License-Identifier: Apache-2.0
"""Training in two processes equals training in one on the joint batches."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import process_of_a_sharded_fit as sharded
import pytest
import torch
from torch.utils.data import RandomSampler

from vla_ros import resources
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.policy.module import VLAModule
from vla_ros.policy.policy import Policy
from vla_ros.train.config import TrainConfig
from vla_ros.train.data import MixtureSampler, ProcessSampler
from vla_ros.train.demonstrations import WindowDataset, split_episodes
from vla_ros.train.distributed import Processes, started_processes
from vla_ros.train.fit import fit
from vla_ros.train.initial_policy import new_policy

SUPPORT = Path(__file__).resolve().parents[1] / "support"


def test_processes_together_draw_what_one_process_would() -> None:
    windows = list(range(10))

    def drawn(rank: int) -> list[int]:
        processes = Processes(rank, 3, 3)
        generator = torch.Generator().manual_seed(5)
        return list(ProcessSampler(RandomSampler(windows, num_samples=60, generator=generator), processes))

    shares = [drawn(rank) for rank in range(3)]
    together = [index for step in zip(*shares, strict=True) for index in step]
    assert [len(share) for share in shares] == [20] * 3
    assert all(sorted(together[start : start + 10]) == windows for start in range(0, 60, 10))
    assert together == list(RandomSampler(windows, num_samples=60, generator=torch.Generator().manual_seed(5)))


def test_processes_also_share_weighted_sources() -> None:
    def drawn(rank: int) -> list[int]:
        processes = Processes(rank, 2, 2)
        return list(ProcessSampler(MixtureSampler([4, 6], [1, 3], 400, torch.Generator().manual_seed(5)), processes))

    counts = Counter(drawn(0) + drawn(1))
    assert 80 < sum(counts[index] for index in range(4)) < 120
    assert max(counts[index] for index in range(4)) - min(counts[index] for index in range(4)) <= 1


def test_processes_are_counted_only_under_torchrun(monkeypatch) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert started_processes() == Processes(0, 1, 1)  # a cluster's scheduler may set these for other reasons
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert started_processes() == Processes(1, 4, 2)


def joint(one: dict, other: dict) -> dict:
    """The windows of two batches as one batch, shorter commands padded."""
    length = max(batch["tokens"].shape[1] for batch in (one, other))

    def padded(batch: dict) -> dict:
        missing = length - batch["tokens"].shape[1]
        return {**batch, **{n: torch.nn.functional.pad(batch[n], (0, missing)) for n in ("tokens", "token_mask")}}

    one, other = padded(one), padded(other)
    images = {name: torch.cat([one["images"][name], other["images"][name]]) for name in one["images"]}
    return {name: torch.cat([one[name], other[name]]) for name in one if name != "images"} | {"images": images}


def validation_loss(config: TrainConfig, policy: Policy, episodes: list) -> torch.Tensor:
    """The loss of one process on all held-out windows at once."""
    held_out = split_episodes(episodes, config.data.validation_fraction, config.seed)[1]
    windows = WindowDataset(held_out, policy, stride=config.contract.history)
    module = VLAModule(policy, max_steps=1, optimizer=config.optimizer, loss=config.loss, augment=config.augment)
    module.log = lambda *_, **__: None
    with torch.no_grad():
        return module.eval().model_step(windows.__getitems__(list(range(len(windows)))), "val")


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_the_joint_batch_and_see_every_window_once(
    recipe, episodes, tmp_path: Path
) -> None:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [str(SUPPORT / "process_of_a_fit.py"), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *command, *script], capture_output=True, text=True, timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("trained 7 steps") == 1  # one of them prints
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    order = [index for pair in zip(*(rank["seen"] for rank in ranks), strict=True) for index in pair]
    assert sorted(order[:28]) == sorted(order[28:]) == list(range(28))  # 56 draws of 28 windows: two epochs

    config = TrainConfig.from_dict(recipe)
    training, _ = split_episodes(episodes, config.data.validation_fraction, config.seed)
    values = {**recipe, "policy": {**recipe["policy"], "compact": {**recipe["policy"]["compact"], "dropout": 0.0}}}
    policy = new_policy(TrainConfig.from_dict(values), training)
    module = VLAModule(policy, max_steps=7, optimizer=config.optimizer, loss=config.loss, augment=config.augment)
    module.log = module.log_dict = lambda *_, **__: None
    module.load_state_dict(ranks[0]["weights"])
    assert all(torch.equal(value, ranks[1]["weights"][name]) for name, value in ranks[0]["weights"].items())
    module.model_step(joint(ranks[0]["batch"], ranks[1]["batch"]), "val").backward()
    groups = module.configure_optimizers()["optimizer"].param_groups
    expected = [parameter.grad for group in groups for parameter in group["params"]]
    for rank in ranks:
        for ours, theirs in zip(expected, rank["gradients"], strict=True):
            torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=1e-4)
    masks = [int(rank["batch"]["action_valid"][rank["batch"]["valid"]].sum()) for rank in ranks]
    assert masks[0] != masks[1]  # else the mean of means would do
    trained = load_checkpoint(tmp_path / "runs" / "tiny" / "checkpoint")
    with (tmp_path / "runs" / "tiny" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    (logged,) = (float(row["train/loss"]) for row in rows if row["train/loss"])
    one, other = (float(rank["losses"][-1]) for rank in ranks)
    assert logged == pytest.approx((one + other) / 2, rel=1e-5) and abs(one - other) > 1e-3
    (validated,) = (float(row["val/loss"]) for row in rows if row["val/loss"])
    assert validated == pytest.approx(float(validation_loss(config, trained, episodes)), rel=2e-5)


@pytest.mark.slow
def test_a_sharded_training_ends_with_the_weights_of_one_process_even_if_interrupted(tmp_path: Path) -> None:
    """Two processes with a piece of each weight, clipped by the norm of all: as one with batches twice as large."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *command, str(SUPPORT / "process_of_a_sharded_fit.py"), str(tmp_path)],
        capture_output=True, text=True, timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    alone = sharded.recipe(tmp_path, "alone", batch_windows=2 * sharded.WINDOWS)
    expected = load_checkpoint(fit(alone, sharded.larger_episodes())).state_dict()
    start = new_policy(alone, split_episodes(sharded.larger_episodes(), 0.34, alone.seed)[0]).state_dict()
    for name in ("sharded", "whole"):
        weights = load_checkpoint(tmp_path / "runs" / name / "checkpoint").state_dict()
        assert weights.keys() == expected.keys()
        for key, value in weights.items():
            torch.testing.assert_close(value, expected[key], atol=2e-4, rtol=1e-3)
    assert not torch.allclose(start["head.mlp.0.weight"], expected["head.mlp.0.weight"], atol=5e-3)
    size = sum(value.numel() for value in expected.values())
    pieces = [torch.load(tmp_path / f"sizes{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(one + other < 1.05 * size for one, other in zip(*pieces, strict=True))  # none has the whole


@pytest.mark.parametrize(("given", "message"), [({}, "FIRST is not set"), ({"FIRST": "a:1"}, "MACHINE is not set")])
def test_the_script_for_several_machines_says_what_it_needs(given: dict[str, str], message: str) -> None:
    script = resources.path("config/train").parents[1] / "train" / "run.sh"
    done = subprocess.run([str(script)], capture_output=True, text=True, env={"MACHINES": "2", **given})
    assert done.returncode and message in done.stderr
