# SPDX-License-Identifier: Apache-2.0
"""A whole run, a few steps long."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
import torch

from vla_ros.policy.checkpoint import load_checkpoint, save_checkpoint
from vla_ros.train import fit as fit_module
from vla_ros.train.build import new_policy, tuned_policy
from vla_ros.train.callbacks import MovingAverage
from vla_ros.train.config import ConfigError, TrainConfig
from vla_ros.train.fit import fit, make_trainer


def test_a_run_leaves_checkpoint_recipe_metrics_and_curves(config, episodes) -> None:
    checkpoint = fit(config, episodes)
    folder = config.run_folder
    assert checkpoint == folder / "checkpoint"
    assert TrainConfig.from_dict(json.loads((folder / "config.json").read_text())) == config
    assert (folder / "curves.png").stat().st_size > 1000
    assert (folder / "last.ckpt").is_file() and list(folder.glob("events.out.tfevents.*"))
    with (folder / "metrics.csv").open() as file:
        columns = set(next(csv.reader(file)))
    names = {"loss", "arm_loss", "gripper_loss", "arm_l1", "gripper_accuracy"}
    assert {f"{phase}/{name}" for phase in ("train", "val") for name in names} <= columns
    assert any(column.startswith("lr-AdamW") for column in columns)
    contract = load_checkpoint(checkpoint).contract
    assert contract.provenance.data_digest.startswith("sha256:")
    assert contract.timing.history == 2 and contract.camera_names == ("static", "wrist")


def test_the_checkpoint_holds_the_averaged_weights(config, episodes, monkeypatch) -> None:
    averages, currents = {}, {}
    on_train_end = MovingAverage.on_train_end

    def spy(self, trainer, module) -> None:
        averages.update({k: v.clone() for k, v in self._average_model.module.policy.state_dict().items()})
        currents.update({k: v.clone() for k, v in module.policy.state_dict().items()})
        on_train_end(self, trainer, module)

    monkeypatch.setattr(MovingAverage, "on_train_end", spy)
    saved = load_checkpoint(fit(config, episodes)).state_dict()
    assert all(torch.equal(saved[name], averages[name]) for name in saved)
    assert not torch.equal(saved["head.mlp.0.weight"], currents["head.mlp.0.weight"])


def test_a_short_average_forgets_its_start() -> None:
    average, current = [torch.zeros(1)], [torch.ones(1)]
    update = MovingAverage(0.999)._kwargs["multi_avg_fn"]
    for count in range(1, 200):
        update(average, current, torch.tensor(count))
    assert average[0].item() > 0.99


def test_gradient_clipping_reaches_the_trainer_and_the_gradients(config, episodes, monkeypatch) -> None:
    config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, gradient_clip_norm=1e-3))
    assert make_trainer(config, config.run_folder, validates=False).gradient_clip_val == 1e-3
    norms = []
    step = torch.optim.AdamW.step

    def spy(self, closure=None):
        result = step(self, closure)
        gradients = [p.grad.norm() for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.stack(gradients).norm().item())
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    fit(config, episodes)
    assert len(norms) == config.trainer.max_steps
    assert max(norms) <= 1.001e-3


def test_a_finished_run_is_not_overwritten(config, episodes) -> None:
    config.run_folder.joinpath("checkpoint").mkdir(parents=True)
    with pytest.raises(ConfigError, match="finished run"):
        fit(config, episodes)


def test_an_unfinished_run_makes_way(config, episodes) -> None:
    config.run_folder.mkdir(parents=True)
    (config.run_folder / "config.json").write_text("{}")
    (config.run_folder / "metrics.csv").write_text("old")
    assert fit(config, episodes).is_dir()
    assert "old" not in (config.run_folder / "metrics.csv").read_text()


def test_no_bags_is_an_error(config) -> None:
    with pytest.raises(ConfigError, match=r"data\.bags is empty.*--bags"):
        fit(config)
    assert not config.run_folder.exists()


def test_resuming_from_nothing_is_an_error(config, episodes, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file .*none\.ckpt"):
        fit(config, episodes, resume=tmp_path / "none.ckpt")


def test_one_episode_is_enough(config, episodes) -> None:
    assert fit(config, episodes[:1]).is_dir()


def test_an_interrupted_run_continues_to_the_same_end(config, episodes, monkeypatch) -> None:
    class PowerCut(Exception):
        pass

    def stop(self, trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == 4:
            raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(fit_module.ProgressLines, "on_train_batch_end", stop)
        with pytest.raises(PowerCut):
            fit(config, episodes)
    last = config.run_folder / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert load_checkpoint(fit(config, episodes, resume=last))
    assert torch.load(last, weights_only=True)["global_step"] == 6


def fine_tuning(config: TrainConfig, start: Path, **changes) -> TrainConfig:
    return dataclasses.replace(config, name="tuned", init_from=str(start), contract=None, policy=None, **changes)


def test_fine_tuning_keeps_statistics_and_tokenizer(config, episodes, tmp_path: Path) -> None:
    start = new_policy(config, episodes[:2])
    save_checkpoint(tmp_path / "start", start)
    faster = [dataclasses.replace(episode, actions=episode.actions * 0.5) for episode in episodes]
    tuned = load_checkpoint(fit(fine_tuning(config, tmp_path / "start"), faster))
    assert tuned.contract.action == start.contract.action
    assert tuned.contract.proprioception == start.contract.proprioception
    assert tuned.contract.language == start.contract.language
    assert tuned.contract.provenance.data_digest != start.contract.provenance.data_digest
    assert not torch.equal(tuned.head.mlp[0].weight, start.head.mlp[0].weight)


def test_fine_tuning_starts_from_the_checkpoint(config, episodes, tmp_path: Path) -> None:
    start = new_policy(config, episodes)
    save_checkpoint(tmp_path / "start", start)
    tuned = tuned_policy(fine_tuning(config, tmp_path / "start"), episodes)
    assert all(torch.equal(value, start.state_dict()[name]) for name, value in tuned.state_dict().items())


def test_fine_tuning_with_rehearsal_and_self_distillation_runs(config, recipe, episodes, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "start", new_policy(config, episodes))
    values = {name: recipe[name] for name in ("output", "trainer")}
    values |= {
        "name": "tuned",
        "init_from": str(tmp_path / "start"),
        "keep": {"fraction": 0.5, "retain": {"weight": 1.0, "commands": ["open the drawer"]}},
    }
    tuned = TrainConfig.from_dict(values)
    fit(tuned, episodes[::2], rehearsed=episodes[1::2])
    assert "train/retain_loss" in (tuned.run_folder / "metrics.csv").read_text()
