# SPDX-License-Identifier: Apache-2.0
"""Episodes to batches of history windows."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler

from vla_ros import actions
from vla_ros.contract import PROPRIOCEPTION_UNITS, ObservationSpec, Proprioception, Timing
from vla_ros.datasets.episode import Episode, Frames, Indices, chunk_frames, window_frames, windows
from vla_ros.datasets.sources import Demonstrations, Source, load_source, require_distinct
from vla_ros.policy.module import Batch
from vla_ros.policy.policy import Policy
from vla_ros.train.config import ConfigError, DataConfig, TrainConfig
from vla_ros.train.encoding import encode_episodes
from vla_ros.train.processes import ALONE, Processes, Share
from vla_ros.train.sampling import MixtureSampler, PhrasingSampler, Remaining

MINIMUM_STD = 0.01  # m or 1: a state that the demonstrations hardly vary must not become a magnifying glass


def read_demonstrations(config: TrainConfig, spec: ObservationSpec, timing: Timing) -> list[Demonstrations]:
    """Load the sources that ``config.data`` lists, and print what was left out.

    Raises:
        ConfigError: it lists none.
        UserError: a source can't be read, or a recording is in two.
    """
    data = config.data
    if data.bags:
        sources = [_load(data, "data.bags", "bags", data.bags, spec, timing)]
    elif data.sources:
        sources = [
            _load(data, f"data.sources[{index}]", source.format, [source.path], spec, timing, source.weight)
            for index, source in enumerate(data.sources)
        ]
    else:
        raise ConfigError("data.bags is empty; list bag folders there, pass --bags PATH, or list data.sources")
    require_distinct(sources)
    return sources


def read_rehearsed(
    config: TrainConfig, sources: Sequence[Demonstrations], spec: ObservationSpec, timing: Timing
) -> Sequence[Episode]:
    """Load the bags of old tasks, ``config.keep.bags``, and print what was left out.

    Raises:
        UserError: a bag can't be read, or is also in ``sources``.
    """
    rehearsed = _load(config.data, "keep.bags", "bags", config.keep.bags, spec, timing)
    require_distinct([*sources, rehearsed])
    return rehearsed.episodes


def _load(
    data: DataConfig,
    name: str,
    format: str,
    paths: Sequence[str],
    spec: ObservationSpec,
    timing: Timing,
    weight: float | None = None,
) -> Demonstrations:
    source = Source(name, format, paths, data.robot, data.include_failures, data.policy_frames)
    with Progress(disable=not sys.stdout.isatty(), transient=True) as bar:
        task = bar.add_task(f"decoding {name}", start=False)

        def show(done: int, total: int) -> None:
            bar.start_task(task)
            bar.update(task, completed=done, total=total)
            if not sys.stdout.isatty() and (done == total or done % max(1, total // 10) == 0):
                print(f"{name}: decoded {done} of {total}", flush=True)

        store = Path(data.store) if data.store else None
        loaded = load_source(
            source, spec, timing, store=store, workers=data.workers, weight=weight, progress=show
        )  # fmt: skip
    print(f"{name}: {loaded.summary()}")
    return loaded


def split_demonstrations(
    sources: Sequence[Demonstrations], validation_fraction: float, seed: int
) -> tuple[list[Episode], list[Episode], list[tuple[int, float]]]:
    """Split each source on its own, so that both parts have all of them.

    Returns:
        The training episodes, the validation episodes, and (training episodes, weight) of each source, empty if
        sources have no weights.
    """
    training: list[Episode] = []
    validation: list[Episode] = []
    shares: list[tuple[int, float]] = []
    for source in sources:
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

    Where there are two recorded episodes at least and the fraction is not 0, both parts have one.
    """
    sources = sorted({episode.source for episode in episodes})
    count = round(validation_fraction * len(sources))
    if validation_fraction and len(sources) > 1:
        count = min(max(count, 1), len(sources) - 1)
    held_out = set(np.random.default_rng(seed).permutation(np.array(sources, dtype=object))[:count])
    training = [episode for episode in episodes if episode.source not in held_out]
    return training, [episode for episode in episodes if episode.source in held_out]


def action_bounds(episodes: Sequence[Episode]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the low and high of the six arm axes (m/s, rad/s) that map to [-1, 1]."""
    low, high = actions.quantile_bounds(np.concatenate([episode.actions for episode in episodes]))
    return tuple(low.tolist()), tuple(high.tolist())


def proprioception_statistics(episodes: Sequence[Episode], names: tuple[str, ...]) -> Proprioception | None:
    """Return the contract's proprioception with mean and standard deviation of ``episodes``; None for no names."""
    if not names:
        return None
    values = np.concatenate([episode.proprioception for episode in episodes]).astype(np.float64)
    if values.shape[1] != len(names):
        raise ConfigError(
            f"the episodes have {values.shape[1]} proprioceptive values, the contract {len(names)}: {names}"
        )
    return Proprioception(
        names=names,
        units=tuple(PROPRIOCEPTION_UNITS[name] for name in names),
        mean=tuple(values.mean(axis=0).tolist()),
        std=tuple(np.maximum(values.std(axis=0), MINIMUM_STD).tolist()),
    )


def data_digest(episodes: Sequence[Episode]) -> str:
    """Return a fingerprint of what was done where under which commands, for the contract's provenance."""
    digest = hashlib.sha256()
    for episode in sorted(episodes, key=lambda e: (e.source, e.start_ns)):
        digest.update(f"{episode.source}|{episode.start_ns}|{'|'.join(episode.commands)}".encode())
        digest.update(np.ascontiguousarray(episode.actions).tobytes())
    return "sha256:" + digest.hexdigest()


class WindowDataset(Dataset):
    """All windows of some episodes, images as uint8; fetched a whole batch at a time.

    A window is asked for by its number, and comes with the command that was in force; or by (number, draw), and comes
    with that of the episode's ways to say it which the draw chooses. Images stay where the episodes have them, mapped
    from the store for instance; the rest is in memory.

    Args:
        policy: its contract and tokenizer say how episodes become inputs and targets.
        stride: every how many windows; with ``stride = history`` each frame is in one window only.
        steps_ahead: also give the images that many frames later (forward prediction); 0 for not.
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
        self._proprioception = torch.from_numpy(_state(episodes, contract.proprioception is not None))
        self._actions = torch.from_numpy(_targets(episodes, contract.action.low, contract.action.high))
        self._committed: Tensor | None = None
        if policy.committed is not None:
            self._committed = torch.from_numpy(_commitments(episodes, contract.action.low, contract.action.high))
        said = [episode.commands for episode in episodes]
        self._phrasings = np.array([len(commands) for commands in said], dtype=np.int64)
        self._first_phrasing = np.cumsum(self._phrasings) - self._phrasings
        self._tokens, self._token_mask = policy.tokenize([command for commands in said for command in commands])
        self._features: Tensor | None = None

    def encode(self, policy: Policy) -> None:
        """Encode every frame once, where the policy is, and give features in place of images from now on.

        Of the ways to say its command an episode keeps one; episodes go through them in turn.
        """
        kept = self._first_phrasing + np.arange(len(self._lengths)) % self._phrasings
        self._first_phrasing, self._phrasings = kept, np.ones_like(kept)
        states = self._proprioception.split(self._lengths.tolist())
        said = zip(self._tokens[kept], self._token_mask[kept], strict=True)
        self._features = encode_episodes(policy, self._images, states, said)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitems__(self, indices: Sequence[int] | Sequence[tuple[int, int]]) -> Batch:
        """Return the batch of the windows ``indices``; the DataLoader calls this instead of one item at a time."""
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
        now, later = ({}, {}) if self._features is not None else self._pictures(episode, frames, last)
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
        if self._committed is not None:
            batch["committed"] = self._committed[action_rows]
        if self._steps_ahead:
            batch["future_images"] = later
            batch["future_valid"] = torch.from_numpy(valid & (frames + self._steps_ahead <= last))
        return batch

    def _pictures(
        self, episode: Indices, frames: Indices, last: Indices
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the images at ``frames`` (B, W) by camera and those ``steps_ahead`` later; each is fetched once.

        ``last`` (B, 1) is the last frame of each episode; where a future would be after it, any picture stands there.
        """
        ahead, window = self._steps_ahead, frames.shape[1]
        if ahead:  # a window and its future, which may overlap, are one run of frames; padding is masked
            offsets = np.union1d(np.arange(window), np.arange(ahead, ahead + window))
            frames = np.minimum(frames[:, :1] + offsets, last)
        pictures = {name: torch.from_numpy(each.gather(episode, frames)) for name, each in self._images.items()}
        now = {name: picture[:, :window] for name, picture in pictures.items()}
        return now, {name: picture[:, -window:] for name, picture in pictures.items()} if ahead else {}


class DemonstrationData(pl.LightningDataModule):
    """Train and validation loaders over episodes.

    Which windows a training step sees is a function of ``seed`` and of the step alone: a training that is resumed goes
    on with the windows that come next. Where episodes have several phrasings, each training window gets one of them,
    drawn anew whenever it comes up; validation always says the command that was in force.

    Args:
        shares: where the sources in ``training`` have weights: for each in turn, its number of episodes and its weight.
            Windows are drawn from the sources as the weights say, whatever the sizes; without it, all count alike.
        rehearsed: episodes of old tasks; ``rehearsed_fraction`` of the training windows are drawn from them.
        accumulate_batches: batches for each of the ``max_steps``.
        processes: which share the training windows; each looks at all of the validation's.
        seed: of the draws.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        training: Sequence[Episode],
        validation: Sequence[Episode],
        batch_windows: int,
        max_steps: int,
        shares: Sequence[tuple[int, float]] = (),
        rehearsed: Sequence[Episode] = (),
        rehearsed_fraction: float = 0.0,
        steps_ahead: int = 0,
        accumulate_batches: int = 1,
        processes: Processes = ALONE,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.batch_windows, self.accumulate_batches = batch_windows, accumulate_batches
        self._processes, self._seed = processes, seed
        together = [*training, *rehearsed]
        self.train_windows = WindowDataset(together, policy, steps_ahead=steps_ahead)
        self._history = policy.contract.timing.history
        self.val_windows: WindowDataset | None = None
        if validation:
            self.val_windows = WindowDataset(validation, policy, stride=self._history, steps_ahead=steps_ahead)
        self._groups = [
            (count, weight * (1 - rehearsed_fraction)) for count, weight in _normalised(shares, len(training))
        ]
        if rehearsed:
            self._groups.append((len(rehearsed), rehearsed_fraction))
        self._lengths = [len(episode) for episode in together]
        self._draws = max_steps * accumulate_batches * batch_windows * processes.count
        self._several_phrasings = any(len(episode.commands) > 1 for episode in together)

    def encode(self, policy: Policy) -> None:
        """Encode every frame once and train on the features, as ``WindowDataset.encode`` does."""
        for windows_of in (self.train_windows, self.val_windows):
            if windows_of is not None:
                windows_of.encode(policy)

    def sampler(self, done_windows: int = 0) -> Sampler:
        """Return what draws the training's windows, in one epoch of as many shuffles as it takes.

        ``done_windows``: of this process's, how many have been trained on and are passed over.
        """
        sampler = self._shuffler(torch.Generator().manual_seed(self._seed))
        if self._processes.count > 1:
            sampler = Share(sampler, self._processes)
        if self._several_phrasings:
            own_seed = np.random.SeedSequence([self._seed, self._processes.rank]).generate_state(1)
            sampler = PhrasingSampler(sampler, torch.Generator().manual_seed(int(own_seed[0])))
        return Remaining(sampler, done_windows)

    def _shuffler(self, generator: torch.Generator) -> Sampler:
        if len(self._groups) == 1:
            return RandomSampler(self.train_windows, num_samples=self._draws, generator=generator)
        ends = np.cumsum([episodes for episodes, _ in self._groups])
        parts = np.split(np.array(self._lengths), ends[:-1])
        sizes = [sum(part) + (self._history - 1) * len(part) for part in parts]
        return MixtureSampler(sizes, [share for _, share in self._groups], self._draws, generator)

    def train_dataloader(self) -> DataLoader:
        done_steps = self.trainer.global_step if self.trainer is not None else 0
        sampler = self.sampler(done_steps * self.accumulate_batches * self.batch_windows)
        return DataLoader(
            self.train_windows,
            batch_size=self.batch_windows,
            sampler=sampler,
            collate_fn=_as_is,
            drop_last=True,
            generator=torch.Generator(),  # else iterating takes a number from the training's
        )

    def val_dataloader(self) -> DataLoader | list:
        if self.val_windows is None:
            return []
        return DataLoader(
            self.val_windows, batch_size=self.batch_windows, collate_fn=_as_is, generator=torch.Generator()
        )


def _normalised(shares: Sequence[tuple[int, float]], episodes: int) -> list[tuple[int, float]]:
    """Return the shares with a sum of 1; without any, all episodes together have it all."""
    total = sum(weight for _, weight in shares)
    return [(count, weight / total) for count, weight in shares] or [(episodes, 1.0)]


def _as_is(batch: Any) -> Any:
    return batch


def _state(episodes: Sequence[Episode], used: bool) -> NDArray[np.float32]:
    if used:
        return np.concatenate([episode.proprioception for episode in episodes])
    return np.zeros((sum(len(episode) for episode in episodes), 0), np.float32)


def _targets(episodes: Sequence[Episode], low: Sequence[float], high: Sequence[float]) -> NDArray[np.float32]:
    """Return normalised actions (frames, 7) with a decided gripper."""
    parts = [actions.network_targets(episode.actions, low, high) for episode in episodes]
    return np.concatenate(parts).astype(np.float32)


def _commitments(episodes: Sequence[Episode], low: Sequence[float], high: Sequence[float]) -> NDArray[np.float32]:
    """Return what moved the arm (frames, 7), as a network is told of it."""
    parts = [actions.network_commitment(episode.done, low, high) for episode in episodes]
    return np.concatenate(parts).astype(np.float32)
