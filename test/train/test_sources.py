# SPDX-License-Identifier: Apache-2.0
"""Training on sources in several formats."""

from __future__ import annotations

import dataclasses
import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from recordings import read_bag
from tiny_datasets import write_calvin
from tiny_training import make_episode

from vla_ros.datasets.bags.open_bag import find_bags
from vla_ros.datasets.sources import Demonstrations
from vla_ros.errors import UserError
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.robot import load_robot
from vla_ros.train.config import TrainConfig
from vla_ros.train.data import DemonstrationData, MixtureSampler
from vla_ros.train.demonstrations import read_demonstrations, read_rehearsed, split_demonstrations, split_episodes
from vla_ros.train.fit import fit
from vla_ros.train.initial_policy import new_policy, observation_spec

DATA = Path(__file__).parents[1] / "data"
BAG = "mcap_zstd_fast"


@pytest.fixture
def bags(tmp_path: Path) -> Path:
    return shutil.copytree(DATA / "bags" / BAG, tmp_path / "bags" / BAG).parent


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """Four recordings in CALVIN's format, at 0.6 m/s along x."""
    relative, euler = np.tile([1.0, 0, 0, 0, 0, 0, 1], (120, 1)), np.zeros((120, 3))
    segments = [(30 * index, 30 * index + 29, f"turn knob {index}", "turn") for index in range(4)]
    recordings = [(30 * index, 30 * index + 29) for index in range(4)]
    return write_calvin(tmp_path / "training", segments, relative, euler, recordings=recordings)


def with_data(recipe: dict, **data) -> TrainConfig:
    robot = str(DATA / "robots" / "fixture.yaml")
    return TrainConfig.from_dict({**recipe, "data": {**recipe["data"], "robot": robot, "workers": 1, **data}})


def test_training_from_the_store_is_training_from_the_bags(recipe, bags) -> None:
    """The same windows, statistics and digest as when the bags are read directly."""
    config = with_data(recipe, bags=[str(bags)])
    spec, timing = observation_spec(config)
    robot = load_robot(config.data.robot)
    direct = [episode for bag in find_bags([bags]) for episode in read_bag(bag, robot, spec, timing)[0]]
    training, _ = split_episodes(direct, config.data.validation_fraction, config.seed)
    expected = new_policy(config, training)
    contract = load_checkpoint(fit(config)).contract
    assert contract == expected.contract
    assert contract.provenance.robots == ("fixture",)
    (stored,) = read_demonstrations(config, spec, timing)
    batches = []
    for episodes in (direct, stored.episodes):
        torch.manual_seed(0)
        data = DemonstrationData(expected, training=episodes, validation=(), batch_windows=4, max_steps=3)
        batches.append(list(data.train_dataloader()))
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(one["images"][camera], other["images"][camera]) for camera in one["images"])
        assert all(torch.equal(one[name], other[name]) for name in one if name != "images")


def test_formats_are_mixed_and_drawn_by_weight(recipe, bags, split) -> None:
    sources = [
        {"format": "bags", "path": str(bags), "weight": 1},
        {"format": "calvin", "path": str(split), "weight": 3},
    ]
    config = with_data(recipe, sources=sources, validation_fraction=0.0)
    read = read_demonstrations(config, *observation_spec(config))
    training, validation, shares = split_demonstrations(read, 0.0, 0)
    assert [weight for _, weight in shares] == [1, 3] and not validation
    policy = new_policy(config, training)
    data = DemonstrationData(
        policy, training=training, validation=(), shares=shares, batch_windows=50, max_steps=40
    )  # fmt: skip
    commands = [
        policy.tokenizer.decode(row[mask])
        for batch in data.train_dataloader()
        for row, mask in zip(batch["tokens"], batch["token_mask"], strict=True)
    ]
    assert np.mean([command.startswith("turn") for command in commands]) == pytest.approx(0.75, abs=0.05)
    # Statistics are of the frames, whatever the weights: CALVIN's 0.6 m/s and the bag's circle at 0.1 m/s.
    everything = np.concatenate([episode.actions for source in read for episode in source.episodes])
    assert policy.contract.action.high[0] == np.quantile(everything[:, 0], 0.99) == pytest.approx(0.6)
    assert load_checkpoint(fit(config)).contract == policy.contract
    assert policy.contract.provenance.robots == ("fixture",)  # CALVIN has no robot file


def test_a_source_with_a_validation_split_of_its_own_is_held_out_by_it(recipe, split) -> None:
    write_calvin(
        split.parent / "validation",
        [(200, 229, "press a key", "press")],
        np.zeros((30, 7)),
        np.zeros((30, 3)),
        first=200,
    )
    config = with_data(recipe, sources=[{"format": "calvin", "path": str(split.parent)}])
    read = read_demonstrations(config, *observation_spec(config))
    training, validation, _ = split_demonstrations(read, 0.5, seed=0)
    assert [episode.task for episode in training] == ["turn"] * 4
    assert [episode.task for episode in validation] == ["press"]


def test_motion_without_language_trains_a_policy(recipe, split) -> None:
    config = with_data(
        recipe, sources=[{"format": "calvin", "path": str(split), "motion_only": True}], validation_fraction=0.3
    )
    policy = load_checkpoint(fit(config))
    assert policy.contract.action.high[0] == pytest.approx(0.6, abs=0.011)
    assert all(torch.isfinite(weights).all() for weights in policy.parameters())


@pytest.mark.parametrize("format_", ["calvin", "lerobot"])
def test_a_data_set_at_30_hz_trains_at_30_hz(recipe, split, tmp_path: Path, format_: str) -> None:
    recipe["contract"] |= {"control_hz": 30, "proprioception": ["gripper_opening"]}
    folder, frames = split, 4 * 29  # each segment's last frame has no action
    if format_ == "lerobot":
        for name in ("pyarrow", "av"):
            pytest.importorskip(name)
        from vla_ros.datasets.lerobot.writer import LeRobotWriter

        folder, frames = tmp_path / "set", 4 * 20
        with LeRobotWriter.create(folder, Fraction(30), ("ee_x", "gripper_opening"), "panda") as writer:
            for index in range(4):
                writer.add(make_episode(index, length=20))
    config = with_data(recipe, sources=[{"format": format_, "path": str(folder)}])
    (source,) = read_demonstrations(config, *observation_spec(config))
    assert sum(map(len, source.episodes)) == frames
    timing = load_checkpoint(fit(config)).contract.timing
    assert timing.control_hz == 30 and timing.grid.start_ns(1_000_000_001) == 33_333_333_366_666_667


def test_each_source_is_split_by_its_own_recordings(episodes) -> None:
    sources = [Demonstrations(episodes[:4], 1.0), Demonstrations(episodes[4:], 2.0)]
    training, validation, shares = split_demonstrations(sources, 0.5, seed=0)
    assert shares == [(2, 1.0), (1, 2.0)]
    assert {episode.source for episode in training[:2]} < {episode.source for episode in episodes[:4]}
    assert training[2].source in {episode.source for episode in episodes[4:]}
    assert not {episode.source for episode in training} & {episode.source for episode in validation}


def test_what_is_left_out_is_printed(recipe, split, capsys) -> None:
    config = with_data(recipe, sources=[{"format": "calvin", "path": str(split)}])
    read_demonstrations(config, *observation_spec(config))
    assert "data.sources[0]: 4 episodes, 36 frames; left out: nothing" in capsys.readouterr().out
    annotations = split / "lang_annotations" / "auto_lang_ann.npy"
    content = np.load(annotations, allow_pickle=True).item()
    content["info"]["indx"] = [(0, 2)] * 4
    np.save(annotations, content, allow_pickle=True)
    with pytest.raises(UserError, match=r"no usable episode in .*data\.sources\[0\].*one control period: 8 frames"):
        read_demonstrations(config, *observation_spec(config))


def test_with_a_store_elsewhere_nothing_is_written_next_to_the_demonstrations(recipe, split, tmp_path: Path) -> None:
    before = sorted(split.rglob("*"))
    config = with_data(
        recipe, sources=[{"format": "calvin", "path": str(split)}], store=str(tmp_path / "store")
    )  # fmt: skip
    read_demonstrations(config, *observation_spec(config))
    assert sorted(split.rglob("*")) == before and len(list((tmp_path / "store").iterdir())) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"bags": ["a"], "sources": [{"format": "bags", "path": "b"}]}, r"data\.sources are both set"),
        ({"sources": [{"format": "zarr", "path": "b"}]}, r"format is 'zarr' for b; must be one of bags, .*rlds"),
        ({"sources": [{"format": "bags", "path": "b", "weight": 0}]}, r"weight is 0\.0 for b; it must be positive"),
        ({"sources": [{"format": "bags", "path": "b", "weight": 1}, {"format": "bags", "path": "c"}]},
         r"c has no weight, but others do; give all one, or none"),
        ({"sources": [{"format": "bags", "path": "b"}] * 2}, r"lists a path twice"),
        ({"sources": [{"format": "rlds", "path": "b", "motion_only": True}]}, r"are for the format calvin; b is rlds"),
        ({"sources": [{"format": "calvin", "path": "b", "motion_only": True, "annotations": "lang"}]},
         r"motion_only is true for b, so annotations are not read"),
        ({"workers": -1}, r"data\.workers is -1"),
    ],
)  # fmt: skip
def test_wrong_sources_are_named(recipe, data: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_data(recipe, **data)


def test_no_source_is_an_error(config) -> None:
    with pytest.raises(UserError, match=r"data\.bags is empty.*data\.sources"):
        read_demonstrations(config, *observation_spec(config))


def test_a_mixture_draws_every_window_of_a_group_before_any_again() -> None:
    drawn = list(MixtureSampler([5, 50], [0.5, 0.5], 100, torch.Generator().manual_seed(0)))
    assert len(drawn) == 100
    for start, size in ((0, 5), (5, 50)):
        group = [index - start for index in drawn if start <= index < start + size]
        for turn in range(0, len(group) - size + 1, size):
            assert sorted(group[turn : turn + size]) == list(range(size))
    assert 30 < sum(index < 5 for index in drawn) < 70


def test_a_mixture_follows_the_seed_and_differs_in_the_next_epoch() -> None:
    runs = []
    for _ in range(2):
        sampler = MixtureSampler([40, 40], [1, 2], 60, torch.Generator().manual_seed(7))
        runs.append((list(sampler), list(sampler)))
    assert runs[0] == runs[1] and runs[0][0] != runs[0][1]


def test_the_recipe_of_a_mixture_survives_being_written(recipe) -> None:
    config = with_data(
        recipe, sources=[{"format": "calvin", "path": "a", "weight": 2}, {"format": "bags", "path": "b", "weight": 1}]
    )
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert dataclasses.asdict(config)["data"]["sources"][0]["weight"] == 2.0


@pytest.mark.parametrize("way", ["the same folder", "a link", "a copy", "its file", "another format's path"])
def test_a_recording_in_two_sources_is_refused(recipe, bags, split, way: str) -> None:
    """Each source is split by itself: what one holds out, the other would train on."""
    bag = bags / BAG
    first, second = {"format": "bags", "path": str(bags)}, {"format": "bags", "path": str(bag)}
    if way == "a link":
        (bags.parent / "link").symlink_to(bags)
        second["path"] = str(bags.parent / "link")
    elif way == "a copy":
        second["path"] = str(shutil.copytree(bag, bags.parent / "elsewhere" / "copy"))
    elif way == "its file":
        second["path"] = str(next(bag.glob("*.mcap")))
    elif way == "another format's path":
        first = {"format": "calvin", "path": str(split)}
        second = {"format": "calvin", "path": f"{split}/../{split.name}"}
    config = with_data(recipe, sources=[first, second])
    with pytest.raises(UserError, match=r"of data\.sources\[1\] is the same recording as .* of data\.sources\[0\]"):
        read_demonstrations(config, *observation_spec(config))


def test_a_copy_next_to_its_original_is_refused(recipe, bags) -> None:
    shutil.copytree(bags / BAG, bags / "copy")
    config = with_data(recipe, bags=[str(bags)])
    with pytest.raises(UserError, match=r"copy of data\.bags is the same recording|of data\.bags is the same .*copy"):
        read_demonstrations(config, *observation_spec(config))


def test_rehearsed_bags_may_not_be_among_the_sources(recipe, bags) -> None:
    config = with_data(recipe, bags=[str(bags)])
    sources = read_demonstrations(config, *observation_spec(config))
    tuned = {key: value for key, value in recipe.items() if key not in ("contract", "policy")}
    again = with_data({**tuned, "init_from": "start", "keep": {"bags": [str(bags / BAG)]}}, bags=[str(bags)])
    with pytest.raises(UserError, match=r"of keep\.bags is the same recording as .* of data\.bags"):
        read_rehearsed(again, sources, *observation_spec(config))
    assert read_rehearsed(again, [], *observation_spec(config)) and len(sources) == 1
