# SPDX-License-Identifier: Apache-2.0
"""Demonstrations: read them as a recipe says, split off validation, and cut them into batches of history windows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import Dataset

from vla_ros import actions
from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.agreement.agreement import compare_recordings
from vla_ros.datasets.agreement.remedies import refuses, remedy
from vla_ros.datasets.episode import Episode, Frames, Indices, chunk_frames, window_frames, windows
from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.sources import Demonstrations, Source, load_source, require_distinct
from vla_ros.imaging import images
from vla_ros.policy.module import Batch
from vla_ros.policy.policy import Policy
from vla_ros.robot import load_robot
from vla_ros.train.config import ConfigError, DataConfig, TrainConfig

ENCODE_BATCH = 32
_MOST_SHOWN = 5


def read_demonstrations(config: TrainConfig, spec: ObservationSpec, timing: Timing) -> list[Demonstrations]:
    """Load the sources that `config.data` lists, and print what was left out.

    Raises:
        ConfigError: it lists none.
        UserError: a source cannot be read, or a recording is in two.
    """
    sources = [_load(config.data, source, spec, timing, weight) for source, weight in recipe_sources(config)]
    require_distinct(sources)
    return sources


def recipe_sources(config: TrainConfig) -> list[tuple[Source, float | None]]:
    """Return the sources that `config.data` lists, and their weights; raise ConfigError if it lists none."""
    data = config.data
    if data.bags:
        return [(_bags(data, "data.bags", data.bags), None)]
    if not data.sources:
        raise ConfigError("data.bags is empty; list bag folders there, pass --bags PATH, or list data.sources")
    found = []
    for index, one in enumerate(data.sources):
        name = f"data.sources[{index}]"
        source = Source(name, one.format, [one.path], annotations=one.annotations, motion_only=one.motion_only)
        found.append((_bags(data, name, [one.path]) if one.format == "bags" else source, one.weight))
    return found


def _bags(data: DataConfig, name: str, paths: Sequence[str]) -> Source:
    return Source(name, "bags", paths, load_robot(data.robot), data.include_failures, data.policy_frames)


def recorded_robots(config: TrainConfig) -> tuple[str, ...]:
    """Return the names of the robots that the recipe's bags are of; other formats have no robot file."""
    formats = ["bags" for _ in (*config.data.bags, *config.keep.bags)]
    formats += [source.format for source in config.data.sources]
    return (load_robot(config.data.robot).name,) if "bags" in formats else ()


def read_rehearsed(
    config: TrainConfig, sources: Sequence[Demonstrations], spec: ObservationSpec, timing: Timing
) -> Sequence[Episode]:
    """Load the bags of old tasks, `config.keep.bags`, and print what was left out.

    Raises:
        UserError: a bag cannot be read, or is also in `sources`.
    """
    rehearsed = _load(config.data, _bags(config.data, "keep.bags", config.keep.bags), spec, timing)
    require_distinct([*sources, rehearsed])
    return rehearsed.episodes


def _load(
    data: DataConfig, source: Source, spec: ObservationSpec, timing: Timing, weight: float | None = None
) -> Demonstrations:
    name = source.name
    with Progress(disable=not sys.stdout.isatty(), transient=True) as bar:
        task = bar.add_task(f"decoding {name}", start=False)

        def show(done: int, total: int) -> None:
            bar.start_task(task)
            bar.update(task, completed=done, total=total)
            if not sys.stdout.isatty() and (done == total or done % max(1, total // 10) == 0):
                print(f"{name}: decoded {done} of {total}", flush=True)

        store = Path(data.store) if data.store else None
        loaded = load_source(source, spec, timing, store=store, workers=data.workers, weight=weight, progress=show)
    print(f"{name}: {loaded.summary()}")
    require_agreement(source, loaded, spec, timing)
    return loaded


def require_agreement(source: Source, loaded: Demonstrations, spec: ObservationSpec, timing: Timing) -> None:
    """Print where actions and measured motion may contradict each other.

    Raises:
        SourceError: They clearly do.
    """
    if not any(name.startswith("ee_") for name in spec.proprioception):
        print(f"{source.name}: actions are not compared with the tool's motion: no pose in contract.proprioception")
    refused = []
    found = compare_recordings(loaded.episodes, spec.proprioception, timing.grid.period_s)
    for recording, agreement in found.items():
        for one in agreement.contradictions:
            way_out = remedy(one, agreement, source.format, source.robot)
            text = f"{recording or 'all recordings together'}: {one.name}: {one.detail}; {way_out}"
            if refuses(one, source.format):
                refused.append(text)
            else:
                print(f"{source.name}: warning: {text}")
    if refused:
        more = [f"and {len(refused) - _MOST_SHOWN} more"] if len(refused) > _MOST_SHOWN else []
        lines = "\n  ".join([*refused[:_MOST_SHOWN], *more])
        raise SourceError(f"{source.name}: actions contradict what the robot measured:\n  {lines}")


def split_demonstrations(
    sources: Sequence[Demonstrations], validation_fraction: float, seed: int
) -> tuple[list[Episode], list[Episode], list[tuple[int, float]]]:
    """Split each source on its own, so that both parts have all of them; one that holds episodes out itself, by these.

    Returns:
        The training episodes, the validation episodes, and (training episodes, weight) of each source, empty if
        sources have no weights.
    """
    training: list[Episode] = []
    validation: list[Episode] = []
    shares: list[tuple[int, float]] = []
    for source in sources:
        kept, held_out = list(source.episodes), list(source.held_out)
        if not held_out:
            kept, held_out = split_episodes(source.episodes, validation_fraction, seed)
        training += kept
        validation += held_out
        if source.weight is not None:
            shares.append((len(kept), source.weight))
    return training, validation, shares


def split_episodes(
    episodes: Sequence[Episode], validation_fraction: float, seed: int
) -> tuple[list[Episode], list[Episode]]:
    """Return (training, validation); pieces of one recorded episode stay together.

    With at least two recorded episodes and a fraction above 0, neither is empty.
    """
    sources = sorted({episode.source for episode in episodes})
    count = round(validation_fraction * len(sources))
    if validation_fraction and len(sources) > 1:
        count = min(max(count, 1), len(sources) - 1)
    held_out = set(np.random.default_rng(seed).permutation(np.array(sources, dtype=object))[:count])
    training = [episode for episode in episodes if episode.source not in held_out]
    return training, [episode for episode in episodes if episode.source in held_out]


class WindowDataset(Dataset[Batch]):
    """All windows of some episodes, with images as uint8, fetched one batch at a time.

    The index of a window gives it with its original command; (index, draw) gives it with the episode's phrasing that
    `draw` selects. Images stay where the episodes have them, such as mapped from the store; the rest is in memory.

    Args:
        policy: its contract and tokenizer define inputs and targets.
        stride: between windows; with `stride = history` each frame is in one window only.
        steps_ahead: also give the images that many frames later (forward prediction), if not 0.
    """

    def __init__(self, episodes: Sequence[Episode], policy: Policy, stride: int = 1, steps_ahead: int = 0) -> None:
        contract = policy.contract
        lengths = np.array([len(episode) for episode in episodes], dtype=np.int64)
        self._history, self._chunk = contract.timing.history, contract.timing.chunk
        self._lengths = lengths
        self._steps_ahead = steps_ahead
        self._offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        self._windows = windows(lengths.tolist(), self._history)[::stride]
        self._images = {name: Frames([episode.images for episode in episodes], name) for name in contract.camera_names}
        states = [episode.proprioception for episode in episodes]
        if contract.proprioception is None:
            states = [np.zeros((lengths.sum(), 0), np.float32)]
        self._proprioception = torch.from_numpy(np.concatenate(states))
        space = contract.action
        targets = [actions.network_targets(episode.actions, space.low, space.high) for episode in episodes]
        self._actions = torch.from_numpy(np.concatenate(targets).astype(np.float32))
        commands = [episode.commands for episode in episodes]
        self._phrasings = np.array([len(each) for each in commands], dtype=np.int64)
        self._first_phrasing = np.cumsum(self._phrasings) - self._phrasings
        self._tokens, self._token_mask = policy.tokenize([command for each in commands for command in each])
        self._features: Tensor | None = None

    @torch.no_grad()
    def encode(self, policy: Policy) -> None:
        """Encode every frame once, on the policy's device, and serve features instead of images from now on.

        Each episode keeps one phrasing of its command; successive episodes keep successive ones.
        """
        kept = self._first_phrasing + np.arange(len(self._lengths)) % self._phrasings
        self._first_phrasing, self._phrasings = kept, np.ones_like(kept)
        was_training = policy.training
        policy.eval()
        features = []
        states = torch.split(self._proprioception, self._lengths.tolist())
        for episode, (state, row) in enumerate(zip(states, kept, strict=True)):
            tokens, mask = self._tokens[row, None], self._token_mask[row, None]
            text = policy.encode_text(tokens.to(policy.device), mask.to(policy.device))
            for frames in np.split(np.arange(len(state)), range(ENCODE_BATCH, len(state), ENCODE_BATCH)):
                inputs = {}
                for camera in policy.contract.cameras:
                    pixels = torch.from_numpy(self._images[camera.name].gather(np.array([episode]), frames[None]))
                    inputs[camera.name] = images.to_network(pixels.to(policy.device), camera)[0]
                measured = state[torch.from_numpy(frames)].to(policy.device)
                encoded = policy.encode(inputs, measured, text.expand(len(frames), *text.shape[1:]))
                features.append(encoded.float().cpu())
        policy.train(was_training)
        self._features = torch.cat(features)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitems__(self, indices: Sequence[int] | Sequence[tuple[int, int]]) -> Batch:
        """Return the windows `indices` as one batch; the DataLoader calls this instead of one item at a time."""
        window, *draw = np.asarray(indices).reshape(len(indices), -1).T
        episode, first, stop = self._windows[window].T
        phrasing = self._first_phrasing[episode] + (draw[0] % self._phrasings[episode] if draw else 0)
        frames, valid = window_frames(first, stop, self._history)  # (B, W), within the episode
        last = self._lengths[episode][:, None] - 1
        rows = torch.from_numpy(frames + self._offsets[episode][:, None])
        chunk, action_valid = chunk_frames(frames, self._lengths[episode][:, None], self._chunk)  # (B, W, N)
        action_rows = torch.from_numpy(chunk + self._offsets[episode][:, None, None])
        mask = self._token_mask[phrasing]
        length = max(1, int(mask.sum(dim=1).max()))
        now, later = ({}, {}) if self._features is not None else self._gather_images(episode, frames, last)
        batch: Batch = {
            "images": now,
            "proprioception": self._proprioception[rows],
            "tokens": self._tokens[phrasing][:, :length],
            "token_mask": mask[:, :length],
            "actions": self._actions[action_rows],
            "action_valid": torch.from_numpy(action_valid),
            "valid": torch.from_numpy(valid),
        }
        if self._features is not None:
            features = self._features[rows]
            batch["features"] = features * batch["valid"].reshape(valid.shape + (1,) * (features.ndim - 2))
        if self._steps_ahead:
            batch["future_images"] = later
            batch["future_valid"] = torch.from_numpy(valid & (frames + self._steps_ahead <= last))
        return batch

    def _gather_images(
        self, episode: Indices, frames: Indices, last: Indices
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the images at `frames` (B, W) by camera and those `steps_ahead` later, fetching each once.

        Futures beyond `last` (B, 1), the last frame of each episode, are filled with any image.
        """
        ahead, window = self._steps_ahead, frames.shape[1]
        if ahead:  # a window and its future, which may overlap, are one run of frames; padding is masked
            offsets = np.union1d(np.arange(window), np.arange(ahead, ahead + window))
            frames = np.minimum(frames[:, :1] + offsets, last)
        pixels = {name: torch.from_numpy(each.gather(episode, frames)) for name, each in self._images.items()}
        now = {name: each[:, :window] for name, each in pixels.items()}
        return now, {name: each[:, -window:] for name, each in pixels.items()} if ahead else {}
