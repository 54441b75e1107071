# SPDX-License-Identifier: Apache-2.0
"""Complete runs of a few steps."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from tiny_models import TINY_MODELS

from vla_ros.contract import ContractError
from vla_ros.policy.augmentation import AugmentConfig
from vla_ros.policy.checkpoint import load_checkpoint, save_checkpoint
from vla_ros.policy.config import ForwardPredictionConfig, PolicyConfig, VlmConfig
from vla_ros.policy.inference import PolicyRunner
from vla_ros.policy.module import VLAModule
from vla_ros.policy.policy import Policy
from vla_ros.policy.tuning import LoraConfig
from vla_ros.train.callbacks import MovingAverage, ProgressLines
from vla_ros.train.config import ConfigError, TrainConfig
from vla_ros.train.fit import fit
from vla_ros.train.initial_policy import new_policy, tuned_policy
from vla_ros.train.trainer import make_trainer


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


def average_by_hand(history: list[dict[str, torch.Tensor]], decay: float) -> dict[str, torch.Tensor]:
    """The moving average over the weights after each step; the first is taken as it is."""
    average = {name: value.clone() for name, value in history[0].items()}
    for count, weights in enumerate(history[1:], start=1):
        momentum = min(decay, (1 + count) / (10 + count))
        for name, value in weights.items():
            average[name] = torch.lerp(average[name], value, 1 - momentum)
    return average


@pytest.mark.parametrize("freeze", [(), ("backbone.cameras.*", "head.lstm.*")])
def test_the_checkpoint_contains_the_averaged_weights(config, episodes, monkeypatch, freeze: tuple[str, ...]) -> None:
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, freeze=freeze))
    history, kept = [], []

    def spy(self, trainer, module, *_) -> None:
        history.append({name: value.clone() for name, value in module.policy.state_dict().items()})
        kept[:] = [name for callback in trainer.callbacks if isinstance(callback, MovingAverage)
                   for name in callback._averages]  # fmt: skip

    monkeypatch.setattr(ProgressLines, "on_train_batch_end", spy)
    saved = load_checkpoint(fit(config, episodes)).state_dict()
    expected = average_by_hand(history, config.trainer.ema_decay)
    assert all(torch.equal(saved[name], expected[name]) for name in saved)
    assert not torch.equal(saved["head.mlp.0.weight"], history[-1]["head.mlp.0.weight"])
    frozen = [name for name in kept if name.startswith(("policy.backbone.cameras.", "policy.head.lstm."))]
    assert kept and bool(frozen) == (not freeze)  # what is frozen has no copy


def test_a_short_average_forgets_its_start() -> None:
    average = MovingAverage(0.999)
    average._averages = {"weight": torch.zeros(1)}
    average._updates = 1
    for _ in range(200):
        average.update([torch.ones(1)])
    assert average._averages["weight"].item() > 0.99


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


def test_an_existing_run_folder_is_not_overwritten(config, episodes) -> None:
    """A checkpoint folder has a config.json too."""
    config.run_folder.mkdir(parents=True)
    (config.run_folder / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tiny already exists; use another --name or --output"):
        fit(config, episodes)
    (config.run_folder / "last.ckpt").write_text("hours")
    with pytest.raises(ConfigError, match=r"--resume \S+last\.ckpt"):
        fit(config, episodes)
    with pytest.raises(ConfigError, match="other already exists"):
        other = dataclasses.replace(config, name="other")
        (other.run_folder / "photos").mkdir(parents=True)
        fit(other, episodes, resume=config.run_folder / "last.ckpt")
    assert (config.run_folder / "last.ckpt").read_text() == "hours"


def test_no_bags_is_an_error(config) -> None:
    with pytest.raises(ConfigError, match=r"data\.bags is empty.*--bags"):
        fit(config)
    assert not config.run_folder.exists()


def test_resuming_from_nothing_is_an_error(config, episodes, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--resume is .*none\.ckpt, which is not a file"):
        fit(config, episodes, resume=tmp_path / "none.ckpt")


def test_one_episode_is_enough(config, episodes) -> None:
    assert fit(config, episodes[:1]).is_dir()


def interrupt(config: TrainConfig, episodes, monkeypatch, hook: str, step: int) -> dict:
    """Press Ctrl-C in a callback at a step, and return what was saved."""

    def press(self, trainer, *_) -> None:
        if trainer.global_step == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ProgressLines, hook, press)
        with pytest.raises(KeyboardInterrupt):
            fit(config, episodes)
    return torch.load(config.run_folder / "last.ckpt", weights_only=True)


def steps_with(name: str, file: Path) -> set[int]:
    with file.open() as text:
        return {int(row["step"]) for row in csv.DictReader(text) if row.get(name)}


@pytest.mark.parametrize("validation_fraction", [0.0, 0.34])
def test_an_interrupted_run_continues_to_the_same_end(
    config, episodes, monkeypatch, capsys, validation_fraction: float
) -> None:
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, validation_fraction=validation_fraction))
    assert interrupt(config, episodes, monkeypatch, "on_train_batch_end", 4)["global_step"] == 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    last = config.run_folder / "last.ckpt"
    assert f"--resume {last}" in capsys.readouterr().out
    assert load_checkpoint(fit(config, episodes, resume=last))
    assert torch.load(last, weights_only=True)["global_step"] == 6
    assert not list(config.run_folder.glob("last-*"))


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(checkpoint).state_dict()


@pytest.mark.parametrize(("accumulate_batches", "crashes"), [(1, False), (2, False), (1, True)])
def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_interrupted(
    config, episodes, monkeypatch, accumulate_batches: int, crashes: bool
) -> None:
    """The same windows in the same words, augmentation, dropout, moments and averages, bit for bit."""
    worded = [dataclasses.replace(episode, phrasings=(episode.command, "do it")) for episode in episodes]
    trainer = dataclasses.replace(config.trainer, accumulate_batches=accumulate_batches)
    config = dataclasses.replace(config, trainer=trainer)
    whole = weights(fit(dataclasses.replace(config, name="whole"), worded))
    with monkeypatch.context() as patch:
        if crashes:  # as if the power had gone: what is left was saved before the last validation
            patch.setattr(ModelCheckpoint, "on_exception", lambda *_: None)
        saved = interrupt(config, worded, monkeypatch, "on_train_batch_end", 4)
    assert saved["global_step"] == (3 if crashes else 4)
    torch.rand(7)  # what else the process draws
    resumed = weights(fit(config, worded, resume=config.run_folder / "last.ckpt"))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_accumulated_batches_make_the_step_of_one_large_batch(config, episodes, capsys) -> None:
    """Windows of full length with all their actions: there, means of means are means."""
    still = dataclasses.replace(
        config,
        augment=AugmentConfig(brightness=0.0, contrast=0.0, proprioception_noise=0.0),
        policy=dataclasses.replace(config.policy, compact=dataclasses.replace(config.policy.compact, dropout=0.0)),
        contract=dataclasses.replace(config.contract, history=1, chunk=1),
    )

    def trained(name: str, **trainer) -> dict[str, torch.Tensor]:
        changed = dataclasses.replace(still.trainer, max_steps=3, validate_every_steps=1, **trainer)
        return weights(fit(dataclasses.replace(still, name=name, trainer=changed), episodes))

    large, small = trained("large", batch_windows=8), trained("small", batch_windows=4, accumulate_batches=2)
    for name, value in large.items():
        torch.testing.assert_close(small[name], value, atol=5e-4, rtol=0)  # Adam makes much of rounding
    less = trained("less", batch_windows=4)
    assert max((less[name] - value).abs().max() for name, value in large.items()) > 5e-3
    for name in ("large", "small"):  # validated after the same steps
        with (still.run_folder.parent / name / "metrics.csv").open() as file:
            assert [row["step"] for row in csv.DictReader(file) if row["val/loss"]] == ["0", "1", "2"]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step 3/3")]
    losses = [float(line.split()[3]) for line in said]  # "step 3/3  loss 0.52 ..."
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)


def test_without_a_moving_average_the_checkpoint_contains_the_weights(config, episodes, monkeypatch) -> None:
    last = {}

    def spy(self, trainer, module, *_) -> None:
        last.update({name: value.clone() for name, value in module.policy.state_dict().items()})

    monkeypatch.setattr(ProgressLines, "on_train_batch_end", spy)
    config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, ema_decay=0.0))
    saved = weights(fit(config, episodes))
    assert all(torch.equal(value, last[name]) for name, value in saved.items())


def test_a_run_records_its_code(config, episodes) -> None:
    fit(config, episodes)
    written = json.loads((config.run_folder / "code.json").read_text())
    assert written["versions"]["torch"] == torch.__version__


def test_a_head_is_fine_tuned_on_features_encoded_once(config, episodes, monkeypatch) -> None:
    start = fit(dataclasses.replace(config, name="start"), episodes)
    encoded = dataclasses.replace(
        config, init_from=str(start), contract=None, policy=None,
        optimizer=dataclasses.replace(config.optimizer, freeze=("backbone.*",)),
        augment=AugmentConfig(brightness=0, contrast=0, proprioception_noise=0),
        trainer=dataclasses.replace(config.trainer, encode_once=True),
    )  # fmt: skip
    frames = []
    encode = Policy.encode
    monkeypatch.setattr(Policy, "encode", lambda self, *args: frames.append(len(args[1])) or encode(self, *args))
    tuned, before = load_checkpoint(fit(encoded, episodes)), load_checkpoint(start)
    assert sum(frames) == sum(map(len, episodes))
    after = tuned.state_dict()
    for name, value in before.state_dict().items():
        assert torch.equal(value, after[name]) == name.startswith("backbone."), name


def test_a_resumed_run_restores_its_weights_and_their_average(config, episodes, monkeypatch) -> None:
    saved = interrupt(config, episodes, monkeypatch, "on_train_batch_end", 4)
    found = {}

    def spy(self, trainer, module) -> None:
        (average,) = (callback for callback in trainer.callbacks if isinstance(callback, MovingAverage))
        found["average"] = {name: value.clone() for name, value in average._averages.items()}
        found["weights"] = {name: value.detach().clone() for name, value in module.named_parameters()}
        found["updates"] = average._updates

    monkeypatch.setattr(ProgressLines, "on_train_start", spy)
    monkeypatch.setattr(ProgressLines, "on_train_batch_end", lambda *_: None)
    fit(config, episodes, resume=config.run_folder / "last.ckpt")
    assert found["updates"] == 4
    assert all(torch.equal(value, saved["state_dict"][name]) for name, value in found["average"].items())
    assert all(torch.equal(value, saved["current_model_state"][name]) for name, value in found["weights"].items())


def test_a_preempted_run_saves_and_prints_how_to_continue(config, episodes, monkeypatch, capsys) -> None:
    def preempt(self, trainer, *_) -> None:
        if trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(ProgressLines, "on_train_batch_end", preempt)
        with pytest.raises(KeyboardInterrupt):
            fit(config, episodes)
    last = config.run_folder / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 4
    assert f"--resume {last}" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == handler
    assert fit(config, episodes, resume=last).is_dir()


def test_a_crash_costs_the_steps_since_the_last_validation_at_most(config, episodes, monkeypatch) -> None:
    monkeypatch.setattr(ModelCheckpoint, "on_exception", lambda *_: None)  # as if the power had gone
    assert interrupt(config, episodes, monkeypatch, "on_train_batch_end", 5)["global_step"] == 3


def test_an_interrupted_validation_saves_weights_as_weights_and_averages_as_averages(
    config, episodes, monkeypatch
) -> None:
    def weight(checkpoint: dict, which: str) -> torch.Tensor:
        return checkpoint[which]["policy.head.mlp.0.weight"]

    monkeypatch.setattr(ModelCheckpoint, "_last_global_step_saved", property(lambda _: -1, lambda *_: None), False)
    saved = interrupt(config, episodes, monkeypatch, "on_validation_batch_end", 3)
    assert saved["global_step"] == 3
    shutil.rmtree(config.run_folder)
    again = interrupt(config, episodes, monkeypatch, "on_validation_end", 3)
    for which in ("state_dict", "current_model_state"):
        assert torch.equal(weight(saved, which), weight(again, which))
    assert not torch.equal(weight(saved, "state_dict"), weight(saved, "current_model_state"))


def test_a_resumed_run_keeps_what_was_measured_before(config, episodes, monkeypatch) -> None:
    interrupt(config, episodes, monkeypatch, "on_train_batch_end", 4)
    fit(config, episodes, resume=config.run_folder / "last.ckpt")
    assert steps_with("val/loss", config.run_folder / "metrics.before.csv") == {2}
    assert steps_with("val/loss", config.run_folder / "metrics.csv") == {5}


def test_a_run_is_resumed_with_its_own_demonstrations_only(config, episodes, monkeypatch) -> None:
    """The weights belong to their statistics and their tokenizer."""
    interrupt(config, episodes, monkeypatch, "on_train_batch_end", 4)
    last = config.run_folder / "last.ckpt"
    before = last.read_bytes()
    faster = [dataclasses.replace(episode, actions=episode.actions * 0.9) for episode in episodes]
    with pytest.raises(ContractError, match=r"another contract .different: action, provenance.*another --name"):
        fit(config, faster, resume=last)
    assert last.read_bytes() == before


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


def test_training_stops_when_the_held_out_loss_no_longer_falls(config, episodes, monkeypatch, capsys) -> None:
    trainer = dataclasses.replace(config.trainer, max_steps=12, validate_every_steps=1, patience_validations=2)
    frozen = dataclasses.replace(config.optimizer, learning_rate=0.0)
    fit(dataclasses.replace(config, trainer=trainer, optimizer=frozen), episodes)
    assert "trained 3 steps" in capsys.readouterr().out


def validated(config: TrainConfig, **trainer) -> TrainConfig:
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, validate_every_steps=1, **trainer))


def test_the_checkpoint_may_be_that_of_the_best_validation(config, episodes, monkeypatch, capsys) -> None:
    """The loss is made to be smallest after the second of six steps."""
    averages, log = [], VLAModule.log

    def logged(self, name, value, **options) -> None:
        if name == "val_loss":
            averages.append({k: v.clone() for k, v in self.policy.state_dict().items()})
            value = torch.tensor([3.0, 1.0, 2.0, 2.0, 2.0, 2.0][len(averages) - 1])
        log(self, name, value, **options)

    monkeypatch.setattr(VLAModule, "log", logged)
    one_batch = {"batch_windows": 64}
    saved = load_checkpoint(fit(validated(config, export="best_validation", **one_batch), episodes)).state_dict()
    assert len(averages) == 6
    assert all(torch.equal(saved[name], averages[1][name]) for name in saved)
    assert not torch.equal(saved["head.mlp.0.weight"], averages[-1]["head.mlp.0.weight"])
    assert "that of step 2: validation 1.0000" in capsys.readouterr().out
    averages.clear()
    last = dataclasses.replace(validated(config, **one_batch), name="last")
    saved = load_checkpoint(fit(last, episodes)).state_dict()
    assert all(torch.equal(saved[name], averages[-1][name]) for name in saved)


def test_the_best_validation_needs_episodes_that_are_held_out(config, episodes) -> None:
    with pytest.raises(ConfigError, match=r"no episode is held out.*validation_fraction.*trainer\.export=last"):
        fit(validated(config, export="best_validation"), episodes[:1])
    assert not config.run_folder.exists()


def test_forward_prediction_is_trained_and_its_terms_are_in_the_log(config, episodes) -> None:
    forward = ForwardPredictionConfig(steps_ahead=2, patch_px=8, width=16, layers=1, attention_heads=2)
    config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, forward_prediction=forward))
    checkpoint = fit(config, episodes)
    header = (config.run_folder / "metrics.csv").read_text().splitlines()[0]
    assert {"train/forward_loss", "val/forward_static_of_repeating", "val/forward_wrist_loss"} <= {*header.split(",")}
    assert load_checkpoint(checkpoint).config == config.policy


def test_patches_that_do_not_tile_the_starting_policy_s_images_are_an_error(config, episodes, tmp_path) -> None:
    save_checkpoint(tmp_path / "start", new_policy(config, episodes))
    loss = dataclasses.replace(config.loss, forward_prediction=ForwardPredictionConfig(patch_px=12))
    with pytest.raises(ConfigError, match="patch_px is 12, but the camera static is 16x16"):
        fit(fine_tuning(config, tmp_path / "start", loss=loss), episodes)


def test_gradient_checkpointing_of_a_small_network_is_refused(config, episodes) -> None:
    trainer = dataclasses.replace(config.trainer, gradient_checkpointing=True)
    with pytest.raises(ConfigError, match="'compact'; it must be 'vlm'"):
        fit(dataclasses.replace(config, trainer=trainer), episodes)


@pytest.mark.filterwarnings("error::FutureWarning")
def test_a_vision_language_model_is_tuned_with_adapters_and_deployed_without_them(config, episodes) -> None:
    pytest.importorskip("peft")
    cameras = tuple(dataclasses.replace(camera, height=32, width=32) for camera in config.contract.cameras)
    larger = [
        dataclasses.replace(
            episode, images={name: x.repeat(2, axis=1).repeat(2, axis=2) for name, x in episode.images.items()}
        )
        for episode in episodes
    ]
    config = dataclasses.replace(
        config,
        contract=dataclasses.replace(config.contract, cameras=cameras),
        policy=PolicyConfig(backbone="vlm", vlm=VlmConfig(model=TINY_MODELS["paligemma"])),
        optimizer=dataclasses.replace(config.optimizer, lora=LoraConfig(rank=2), backbone_learning_rate=1e-3),
        trainer=dataclasses.replace(config.trainer, gradient_checkpointing=True),
    )
    loaded = load_checkpoint(fit(config, larger))
    assert not any("lora" in name for name in loaded.state_dict())
    runs = PolicyRunner(loaded)
    runs.warm_up()
