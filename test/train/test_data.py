# SPDX-License-Identifier: Apache-2.0
"""From episodes to batches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from vla_ros.datasets.episode import Frames
from vla_ros.imaging import images
from vla_ros.train.config import ConfigError
from vla_ros.train.data import DemonstrationData
from vla_ros.train.demonstrations import WindowDataset, split_episodes
from vla_ros.train.distributed import Processes
from vla_ros.train.initial_policy import new_policy
from vla_ros.train.statistics import check_commands, check_statistics, data_digest, proprioception_statistics


def test_pieces_of_one_recording_are_never_split(episodes) -> None:
    pieces = [dataclasses.replace(episode, source=f"bag#{i // 3}") for i, episode in enumerate(episodes)]
    training, validation = split_episodes(pieces, 0.2, seed=0)
    assert len(training) == len(validation) == 3
    assert not {e.source for e in training} & {e.source for e in validation}


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.01, 1), (0.5, 3), (0.99, 5)])
def test_the_split_keeps_both_parts(episodes, fraction: float, count: int) -> None:
    training, validation = split_episodes(episodes, fraction, seed=0)
    assert (len(training), len(validation)) == (6 - count, count)


def test_a_single_recording_is_for_training(episodes) -> None:
    assert split_episodes(episodes[:1], 0.5, seed=0) == (episodes[:1], [])


def test_statistics_are_of_the_training_episodes_only(config, episodes) -> None:
    """Whatever the held-out episodes hold, the contract is the same."""
    policy = new_policy(config, episodes)
    values = np.concatenate([episode.proprioception for episode in episodes])
    assert policy.contract.proprioception.mean == pytest.approx(values.mean(axis=0).tolist(), rel=1e-5)
    training, validation = split_episodes(episodes, 0.34, seed=0)
    other = [dataclasses.replace(e, actions=e.actions * 0.0, command="dance") for e in validation]
    split_again, _ = split_episodes([*training, *other], 0.34, seed=0)
    assert new_policy(config, split_again).contract == new_policy(config, training).contract


def test_fit_computes_statistics_after_the_split(config, episodes, monkeypatch) -> None:
    from vla_ros.train import fit

    class SeenError(Exception):
        pass

    def stop(_config, training):
        raise SeenError(len(training))

    monkeypatch.setattr(fit, "new_policy", stop)
    with pytest.raises(SeenError, match="4"):
        fit.fit(config, episodes)


def test_a_constant_state_is_not_amplified(episodes) -> None:
    still = [dataclasses.replace(e, proprioception=np.full_like(e.proprioception, 0.3)) for e in episodes]
    assert proprioception_statistics(still, ("ee_x", "gripper_opening")).std == (0.01, 0.01)


def test_another_number_of_states_than_the_contract_is_refused(episodes) -> None:
    with pytest.raises(ConfigError, match="2 proprioceptive values, the contract 1"):
        proprioception_statistics(episodes, ("ee_x",))


def test_a_batch_reproduces_the_episode(config, episodes) -> None:
    policy = new_policy(config, episodes)
    episode = episodes[1]
    batch = WindowDataset([episodes[0], episode], policy).__getitems__(range(7, 14))  # the second episode's windows
    assert batch["valid"].tolist() == [[True, False], *[[True, True]] * 5, [True, False]]
    assert torch.equal(batch["images"]["wrist"][3], torch.from_numpy(episode.images["wrist"][2:4]))
    assert torch.equal(batch["proprioception"][3], torch.from_numpy(episode.proprioception[2:4]))
    low, high = (np.array(bound) for bound in (policy.contract.action.low, policy.contract.action.high))
    expected = np.clip(2 * (episode.actions[3:6, :6] - low) / (high - low) - 1, -1, 1)
    np.testing.assert_allclose(batch["actions"][3, 1, :, :6], expected, atol=1e-6)
    assert batch["actions"][3, 1, :, 6].tolist() == episode.actions[3:6, 6].tolist()
    assert batch["action_valid"][6].tolist() == [[True, False, False]] * 2
    text = [policy.tokenizer.decode(row[mask]) for row, mask in zip(batch["tokens"], batch["token_mask"], strict=True)]
    assert set(text) == {"open the drawer"}


def test_a_gripper_never_commanded_to_its_limits_still_opens(config, episodes) -> None:
    """Labels are commands: 0.875 means open, whatever is commanded next."""
    actions = episodes[0].actions.copy()
    actions[:, 6] = [0.875, 0.875, 0, 0, 0.875, 0]
    batch = WindowDataset([dataclasses.replace(episodes[0], actions=actions)], new_policy(config, episodes))
    assert batch._actions[:, 6].tolist() == [1, 1, 0, 0, 1, 0]


def test_data_outside_the_starting_statistics_is_a_warning_then_an_error(config, episodes, capsys) -> None:
    contract = new_policy(config, episodes).contract
    check_statistics(contract, [dataclasses.replace(e, actions=e.actions * 0.9) for e in episodes])
    assert not capsys.readouterr().out
    faster = [dataclasses.replace(e, actions=e.actions * np.array([3, 1, 1, 1, 1, 1, 1])) for e in episodes]
    check_statistics(contract, [*episodes, *episodes, *episodes, faster[0]])
    assert "action vx: " in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"action vx: 100% \(at most 30%\).*train from scratch"):
        check_statistics(contract, faster)
    elsewhere = [dataclasses.replace(e, proprioception=e.proprioception + np.float32([0, 9])) for e in episodes]
    with pytest.raises(ConfigError, match=r"state gripper_opening: 100%"):
        check_statistics(contract, elsewhere)


def test_a_command_that_would_be_truncated_is_refused(config, episodes) -> None:
    policy = new_policy(config, episodes)
    check_commands(policy, ["open the drawer"])
    with pytest.raises(ConfigError, match=r"and then the.*tokens, more than max_tokens = 32"):
        check_commands(policy, ["open the drawer " + "and then the other " * 20])


def test_validation_sees_each_frame_once(config, episodes) -> None:
    policy = new_policy(config, episodes)
    data = DemonstrationData(policy, training=episodes[:1], validation=episodes[1:2], batch_windows=4, max_steps=1)
    assert sum(int(batch["valid"].sum()) for batch in data.val_dataloader()) == len(episodes[1])


def test_training_lasts_exactly_max_steps_in_even_shuffles(config, episodes) -> None:
    policy = new_policy(config, episodes)
    data = DemonstrationData(policy, training=episodes[:2], validation=(), batch_windows=7, max_steps=4)
    batches = list(data.train_dataloader())
    assert len(batches) == 4
    counts = torch.stack([(torch.cat([b["actions"][:, 0, 0] for b in batches]) == a).all(-1).sum()
                          for a in data.train_windows._actions[1:5]])  # fmt: skip
    assert (counts == 2).all()  # 28 windows drawn of 14, each twice


def test_rehearsed_episodes_get_their_share(config, episodes) -> None:
    policy = new_policy(config, episodes)
    data = DemonstrationData(
        policy,
        training=[episodes[0], episodes[2], episodes[4]],  # all "pick up the red block"
        validation=(),
        batch_windows=10,
        max_steps=60,
        rehearsed=[episodes[1]],  # "open the drawer"
        rehearsed_fraction=0.4,
    )
    drawer = policy.tokenize(["open the drawer"])[0][0]
    old = [(batch["tokens"][:, : len(drawer)] == drawer).all(dim=1).float().mean() for batch in data.train_dataloader()]
    assert torch.stack(old).mean().item() == pytest.approx(0.4, abs=0.06)


def test_the_digest_is_of_the_data_not_of_its_order(episodes) -> None:
    assert data_digest(episodes) == data_digest(episodes[::-1])
    changed = [dataclasses.replace(episodes[0], command="dance"), *episodes[1:]]
    assert data_digest(changed) != data_digest(episodes)


def test_future_frames_are_those_so_many_steps_later_and_end_with_the_episode(config, episodes) -> None:
    policy = new_policy(config, episodes)
    windows = WindowDataset(episodes[:2], policy, steps_ahead=2)
    batch = windows.__getitems__(range(len(windows)))
    length = len(episodes[0])
    pictures = torch.from_numpy(np.concatenate([episode.images["static"] for episode in episodes[:2]]))
    for row in range(len(windows)):
        for position in torch.nonzero(batch["valid"][row]).flatten().tolist():
            now = batch["images"]["static"][row, position]
            frame = next(index for index, picture in enumerate(pictures) if torch.equal(picture, now))
            has_future = frame % length + 2 < length
            assert bool(batch["future_valid"][row, position]) == has_future
            if has_future:
                assert torch.equal(batch["future_images"]["static"][row, position], pictures[frame + 2])
    assert not batch["future_valid"][~batch["valid"]].any()


@pytest.mark.parametrize(("steps_ahead", "frames"), [(0, 2), (1, 3), (2, 4), (4, 4)])
def test_an_image_that_is_a_frame_and_a_future_is_fetched_once(
    config, episodes, monkeypatch, steps_ahead: int, frames: int
) -> None:
    windows = WindowDataset(episodes[:2], new_policy(config, episodes), steps_ahead=steps_ahead)
    fetched = []
    gather = Frames.gather
    monkeypatch.setattr(
        Frames, "gather", lambda self, episode, rows: fetched.append(rows.shape) or gather(self, episode, rows)
    )
    windows.__getitems__([1, 2, 3])
    assert fetched == [(3, frames)] * 2  # of two cameras, with a history of two


def test_without_forward_prediction_there_are_no_futures(config, episodes) -> None:
    policy = new_policy(config, episodes)
    assert "future_images" not in WindowDataset(episodes[:2], policy).__getitems__([0])


PHRASINGS = ("take the red cube", "pick up the red block", "grasp it")


def said(policy, batch) -> list[str]:
    rows = zip(batch["tokens"], batch["token_mask"], strict=True)
    return [policy.tokenizer.decode(row[mask]) for row, mask in rows]


def test_each_training_window_gets_a_random_phrasing_and_validation_the_original_command(config, episodes) -> None:
    red = [dataclasses.replace(episode, phrasings=PHRASINGS) for episode in episodes[::2]]
    drawer = episodes[1::2]
    policy = new_policy(config, [*red, *drawer])
    data = DemonstrationData(policy, training=[*red, *drawer], validation=red, batch_windows=21, max_steps=60)

    def commands() -> list[str]:
        torch.manual_seed(3)
        return [command for batch in data.train_dataloader() for command in said(policy, batch)]

    drawn = commands()
    assert set(drawn) == {*PHRASINGS, "open the drawer"}  # the tokenizer has learned the words of all
    shares = [drawn.count(text) / len(drawn) for text in PHRASINGS]
    assert shares == pytest.approx([1 / 6] * 3, abs=0.04)  # half of the windows are of these episodes
    assert commands() == drawn
    for batch in data.val_dataloader():
        assert set(said(policy, batch)) == {"pick up the red block"}


def test_a_window_s_images_do_not_depend_on_its_phrasing(config, episodes) -> None:
    one = [dataclasses.replace(episode, phrasings=(episode.command, "do it")) for episode in episodes]
    policy = new_policy(config, one)
    plain, several = WindowDataset(episodes, policy), WindowDataset(one, policy)
    first, second = (several.__getitems__([(5, draw), (0, draw)]) for draw in (0, 1))
    expected = plain.__getitems__([5, 0])
    assert said(policy, first) == said(policy, expected) and said(policy, second) == ["do it", "do it"]
    for name in ("proprioception", "actions", "valid"):
        assert torch.equal(first[name], expected[name]) and torch.equal(second[name], expected[name])
    assert torch.equal(first["images"]["static"], second["images"]["static"])


def test_a_phrasing_that_is_too_long_is_refused_before_training(config, episodes) -> None:
    from vla_ros.train.fit import fit

    long = dataclasses.replace(episodes[0], phrasings=(episodes[0].command, "word " * 60))
    with pytest.raises(ConfigError, match=r"'word .* has \d+ tokens, more than max_tokens"):
        fit(config, [long, *episodes[1:]])


def test_features_encoded_once_are_those_of_the_live_backbone(config, episodes) -> None:
    """Episodes keep one of the ways to say their command each, in turn, whatever is drawn for a window."""
    worded = [dataclasses.replace(episode, phrasings=PHRASINGS) for episode in episodes[:3:2]]
    policy = new_policy(config, worded)
    windows = WindowDataset(worded, policy)
    windows.encode(policy.train())
    assert policy.training
    for number, episode, phrasing, first in ((3, 0, 0, 2), (10, 1, 1, 2)):
        batch = windows.__getitems__([(number, 5)])
        assert batch["images"] == {}
        text = policy.tokenizer.decode(batch["tokens"][0][batch["token_mask"][0]])
        assert text == worded[episode].commands[phrasing]
        seen = {
            camera.name: images.to_network(torch.from_numpy(worded[episode].images[camera.name][None]), camera)[0]
            for camera in policy.contract.cameras
        }
        state = torch.from_numpy(worded[episode].proprioception)
        with torch.no_grad():
            said = policy.encode_text(*policy.tokenize([text])).expand(len(state), -1)
            expected = policy.eval().encode(seen, state, said)[first : first + 2]
        torch.testing.assert_close(batch["features"][0], expected)
    padded = windows.__getitems__([(0, 0)])
    assert padded["valid"].tolist() == [[True, False]] and not padded["features"][0, 1].any()


@pytest.mark.parametrize("count", [1, 2])
def test_skipping_done_windows_leaves_the_others_unchanged(config, episodes, count: int) -> None:
    worded = [dataclasses.replace(episode, phrasings=PHRASINGS[1:]) for episode in episodes[::2]]
    policy = new_policy(config, worded)
    data = DemonstrationData(
        policy, training=worded, validation=(), batch_windows=4, max_steps=9, processes=Processes(0, count, count)
    )
    whole, rest = list(data.sampler()), list(data.sampler(done_windows=12))
    assert len(whole) == 36 and rest == whole[12:]
    assert len(data.sampler(done_windows=12)) == 36  # as Lightning counts
    assert len({draw for _, draw in whole}) > 30
