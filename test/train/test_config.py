# SPDX-License-Identifier: Apache-2.0
"""A recipe loads as written, or an error says what to change."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from vla_ros import resources
from vla_ros.train.config import ConfigError, TrainConfig
from vla_ros.train.recipes import load_config


@pytest.fixture
def file(recipe, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({**recipe, "output": "runs"}))
    return path


@pytest.mark.parametrize("path", sorted(resources.path("config/train").glob("*.json")), ids=lambda path: path.stem)
def test_shipped_recipes_load(path: Path) -> None:
    overrides = ["init_from=somewhere"] if "keep" in json.loads(path.read_text()) else []
    assert load_config(path, overrides).name


@pytest.mark.parametrize("name", ["tabletop", "finetune", "libero", "tabletop_finish"])
def test_shipped_recipes_train_as_they_did_before_betas_could_be_set(name: str) -> None:
    path = resources.path("config/train") / f"{name}.json"
    overrides = ["init_from=somewhere"] if name == "finetune" else []
    assert load_config(path, overrides).optimizer.betas == (0.9, 0.999)


def test_a_recipe_survives_being_written(config, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_dict()))
    assert load_config(path, [f"output={config.output}"]) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_step=3", r"'max_step'.*'max_steps'"),
        ("tainer.max_steps=3", r"'tainer'.*'trainer'"),
        ("augment.shift={}", r"'shift'.*'shift_px'"),
        ("trainer.max_steps=many", r"max_steps must be of type int; got 'many'"),
        ("trainer.max_steps=0", r"max_steps is 0; it must be at least 1"),
        ("trainer.accelerator=npu", r"accelerator must be one of 'auto', .*got 'npu'"),
        ("data.validation_fraction=1.0", r"validation_fraction is 1.0"),
        ("contract.cameras=[]", r"cameras has the names \[\]; there must be at least one"),
        ('contract.proprioception=["ee_xx"]', r"'ee_xx'; did you mean 'ee_x'"),
        ("contract.control_hz=0", r"control_hz must be in \[0\.01, 1000\]; got 0\.0"),
        ("contract.settle_s=0.1", r"settle_s must be .*got 0\.1"),
        ("contract.control_hz=60", r"settle_s must be .* less than one control period, 0\.0167 s at 60 Hz; got 0\.02"),
        ("contract.prompt_template=do it", r"prompt_template must .*got 'do it'"),
        ("policy.backbone=huge", r"policy\.backbone is 'huge'; it must be one of compact"),
        ("policy.backbone=vlm", r"policy\.vlm has neither pretrained nor model"),
        ('policy.vlm={"pretrained": "a", "model": {"model_type": "llava"}}', r"pretrained and vlm\.model are both set"),
        ("policy.vlm.history_mode=movie", r"history_mode must be one of 'policy_head', .*got 'movie'"),
        ("policy.max_delay_steps=3", r"policy: max_delay_steps is 3; .*path_following.* Remove the key"),
        ("policy.delay_mode=shifted_state", r"policy: delay_mode is 'shifted_state'; .* Remove the key"),
        ("loss.language_weight=0.1", r"loss: language_weight is 0\.1; .* remove the key"),
        ("optimizer.beta=[0.9, 0.95]", r"'beta'.*'betas'"),
        ("optimizer.betas=[0.9, 1.0]", r"betas is \[0\.9, 1\.0\]; each must be in \[0, 1\)"),
        ("optimizer.betas=[0.9]", r"betas must have 2 items; got 1"),
        ("optimizer.schedule_interval=hour", r"schedule_interval must be one of 'step', 'epoch'; got 'hour'"),
        ("trainer.gradient_clip_value=0.5", r"gradient_clip_norm and trainer\.gradient_clip_value are both set"),
        ("trainer.save_top_k=3", r"save_top_k is 3, but trainer\.checkpoint_name is 'best' for all of them"),
        ("trainer.checkpoint_name=../best", r"checkpoint_name is '\.\./best'; it must be a file name"),
        ("trainer.checkpoint_name=last", r"checkpoint_name is 'last'"),
        ("trainer.accumulate_batches=0", r"accumulate_batches is 0"),
        ("trainer.ema_decay=1", r"ema_decay is 1\.0; it must be in \[0, 1\)"),
        ("trainer.gradient_clip_norm=-1", r"gradient_clip_norm is -1"),
        ('policy.vlm={"layout": "robovlms", "history_mode": "video"}', r"layout is 'robovlms', but .* is 'video'"),
        ("policy.gpt.width=30", r"gpt\.width is 30; it must be a multiple of attention_heads = 8"),
        ("policy.discrete.bins=255", r"bins is 255; it must be even"),
        ("policy.flow.integration_steps=0", r"integration_steps is 0"),
        ('loss.forward_prediction={"patch_px": 12}', r"patch_px is 12, but the camera static is 16x16"),
        ("optimizer.lora.rank=0", r"rank is 0"),
        ("trainer.export=best", r"export must be one of 'last', 'best_validation'; got 'best'"),
        ("trainer.patience_validations=-1", r"patience_validations is -1"),
        ("policy.compact.channels=[8, 8, 12, 8]", r"channels is \(8, 8, 12, 8\); each must be a multiple of 8"),
        ("policy.compact.dropout=1", r"dropout is 1\.0"),
        ("policy.lstm.layers=0", r"lstm\.layers is 0"),
        ("contract=null", r"neither init_from nor contract is set.*--set init_from=FOLDER"),
        ("keep.retain.weight=1", r"commands is empty"),
        ('keep.bags=["a"]', r"init_from is not"),
        ('init_from="runs/a/checkpoint"', r"contract and init_from are both set"),
        ("trainer", r"it must be section.key=value"),
        ("name.sub=1", r"'name', which is not a section"),
    ],
)
def test_wrong_values_are_named(file: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(file, [override])


def test_removed_keys_with_the_value_that_changes_nothing_still_load(file: Path) -> None:
    harmless = ["policy.max_delay_steps=0", "policy.delay_mode=prefix", "loss.language_weight=0.0"]
    assert load_config(file, harmless) == load_config(file)


def test_encode_once_is_refused_if_encodings_would_change(file: Path) -> None:
    still = ["augment.brightness=0", "augment.contrast=0", "augment.proprioception_noise=0"]
    once = ["trainer.encode_once=true", 'optimizer.freeze=["backbone.*"]', *still]
    assert load_config(file, once).trainer.encode_once
    for override, message in (
        ("optimizer.freeze=[]", r"encode_once is set, but optimizer\.freeze is \[\]; it must be \['backbone\.\*'\]"),
        ("augment.contrast=0.1", r"but augment is \{.*'contrast': 0\.1"),
        ('loss.forward_prediction={"patch_px": 8}', r"but loss\.forward_prediction is"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(file, [*once, override])


def test_overrides_take_json_and_bare_text(file: Path) -> None:
    config = load_config(file, ["trainer.max_steps=7", "name=other", 'data.bags=["a", "b"]', "loss.huber_delta=1"])
    assert (config.trainer.max_steps, config.name, config.data.bags) == (7, "other", ("a", "b"))
    assert config.loss.huber_delta == 1.0


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    shipped = re.escape(str(resources.path("config/train")))
    with pytest.raises(ConfigError, match=rf"no recipe .*none\.json; the shipped ones are in {shipped}"):
        load_config(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match=r"broken\.json is not JSON"):
        load_config(tmp_path / "broken.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ConfigError, match="contains list"):
        load_config(tmp_path / "list.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"bytes\.json is not JSON"):
        load_config(tmp_path / "bytes.json")
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)


def test_a_recipe_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="missing key 'name'"):
        TrainConfig.from_dict({})


def test_a_recipe_has_the_values_of_its_parent_where_it_gives_none(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    child = {"parent": "../recipe.json", "name": "child", "trainer": {"max_steps": 9}, "policy": {"head": "gpt"}}
    (folder / "child.json").write_text(json.dumps(child))
    (folder / "grandchild.json").write_text(json.dumps({"parent": "child.json", "optimizer": {"warmup_steps": 4}}))
    parent, config = load_config(file), load_config(folder / "grandchild.json", ["trainer.batch_windows=2"])
    assert (config.name, config.trainer.max_steps, config.trainer.batch_windows) == ("child", 9, 2)
    assert config.policy is not None and parent.policy is not None
    assert (config.policy.head, config.policy.compact) == ("gpt", parent.policy.compact)
    assert (config.optimizer.warmup_steps, config.optimizer.learning_rate) == (4, parent.optimizer.learning_rate)
    assert config.contract == parent.contract


def write(folder: Path, stem: str, **values) -> Path:
    (folder / f"{stem}.json").write_text(json.dumps(values))
    return folder / f"{stem}.json"


def test_maps_are_replaced_whole(file: Path, tmp_path: Path) -> None:
    forward = {"patch_px": 8, "width": 64}
    write(
        tmp_path, "base", parent="recipe.json", loss={"forward_prediction": forward},
        augment={"shift_px": {"static": 1, "wrist": 3}, "camera_dropout": {"wrist": 0.2}, "contrast": 0.3},
        policy={"backbone": "vlm", "vlm": {"model": {"model_type": "llava", "vision_config": {"image_size": 32}}}},
    )  # fmt: skip
    child = write(
        tmp_path, "child", parent="base.json", loss={"forward_prediction": {"patch_px": 4}},
        augment={"shift_px": {"static": 2}, "camera_dropout": {}},
        policy={"vlm": {"model": {"model_type": "gemma3"}, "history_mode": "video"}},
    )  # fmt: skip
    config = load_config(child)
    assert (config.augment.shift_px, config.augment.camera_dropout) == ({"static": 2}, {})
    assert config.augment.contrast == 0.3  # a section is merged
    assert config.policy.vlm.model == {"model_type": "gemma3"} and config.policy.backbone == "vlm"
    assert (config.loss.forward_prediction.patch_px, config.loss.forward_prediction.width) == (4, 64)


def test_a_recipe_with_init_from_inherits_no_contract_or_policy(file: Path, tmp_path: Path) -> None:
    tuned = load_config(write(tmp_path, "tuned", parent="recipe.json", name="tuned", init_from="runs/a/checkpoint"))
    assert (tuned.init_from, tuned.contract, tuned.policy) == ("runs/a/checkpoint", None, None)
    assert tuned.optimizer == load_config(file).optimizer
    parsed = json.loads(file.read_text())
    anew = write(tmp_path, "anew", parent="tuned.json", contract=parsed["contract"], policy={"head": "gpt"})
    assert load_config(anew).init_from is None and load_config(anew).policy.head == "gpt"
    both = write(tmp_path, "both", parent="recipe.json", init_from="a", policy={"head": "gpt"})
    with pytest.raises(ConfigError, match="policy and init_from are both set"):
        load_config(both)


def test_shipped_recipes_can_be_tuned_from(tmp_path: Path) -> None:
    shipped = str(resources.path("config/train") / "tabletop.json")
    config = load_config(write(tmp_path, "tuned", parent=shipped, name="tuned", init_from="a"))
    assert config.contract is None and config.augment.shift_px == {"static": 1, "wrist": 3}


def test_with_init_from_a_recipe_sets_no_policy_not_even_the_default(file: Path, tmp_path: Path) -> None:
    """The checkpoint's may be another one."""
    tuned = write(tmp_path, "tuned", parent="recipe.json", name="tuned", init_from="a")
    config = load_config(tuned)
    assert config.policy is None and config.contract is None
    assert load_config(write(tmp_path, "again", **config.to_dict())) == config
    for override in ("policy.head=gpt", "policy.head=lstm", "policy.backbone=compact", "policy={}"):
        with pytest.raises(ConfigError, match=r"policy and init_from are both set.*remove policy, or remove init_from"):
            load_config(tuned, [override])


def test_missing_circular_and_invalid_parents_are_named(tmp_path: Path) -> None:
    for name, parent in (("a", "b.json"), ("b", "a.json"), ("lost", "nowhere.json"), ("odd", 3)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"parent": parent}))
    with pytest.raises(ConfigError, match=r"own parent: .*a\.json -> .*b\.json -> .*a\.json"):
        load_config(tmp_path / "a.json")
    with pytest.raises(ConfigError, match=r"no recipe .*nowhere\.json"):
        load_config(tmp_path / "lost.json")
    with pytest.raises(ConfigError, match="parent is 3"):
        load_config(tmp_path / "odd.json")
