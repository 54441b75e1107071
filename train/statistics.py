# SPDX-License-Identifier: Apache-2.0
"""Statistics of demonstrations: for a new policy's contract, and to check whether they fit an existing one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from vla_ros import actions
from vla_ros.contract import ARM_AXES, PROPRIOCEPTION_UNITS, PolicyContract, Proprioception
from vla_ros.datasets.episode import Episode
from vla_ros.policy.policy import Policy
from vla_ros.train.config import ConfigError

MINIMUM_STD = 0.01  # m or 1: keeps a nearly constant state from being amplified
# Fine-tuning keeps the old statistics. Even of the demonstrations they come from, 2 % of an axis are outside.
WARN_OUTSIDE, MAX_OUTSIDE = 0.05, 0.3
FAR_STDS = 5.0


def action_bounds(episodes: Sequence[Episode]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the low and high of the six arm axes (m/s, rad/s) that map to [-1, 1]."""
    low, high = actions.quantile_bounds(np.concatenate([episode.actions for episode in episodes]))
    return tuple(low.tolist()), tuple(high.tolist())


def proprioception_statistics(episodes: Sequence[Episode], names: tuple[str, ...]) -> Proprioception | None:
    """Return the contract's proprioception with mean and standard deviation of `episodes`; None for no names."""
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
    """Return a fingerprint of the actions, their times and commands, for the contract's provenance."""
    digest = hashlib.sha256()
    for episode in sorted(episodes, key=lambda e: (e.source, e.start_ns)):
        digest.update(f"{episode.source}|{episode.start_ns}|{'|'.join(episode.commands)}".encode())
        digest.update(np.ascontiguousarray(episode.actions).tobytes())
    return "sha256:" + digest.hexdigest()


def outside_statistics(contract: PolicyContract, episodes: Sequence[Episode]) -> dict[str, float]:
    """Return, per axis, the share of actions that the contract's bounds clip and of states far from its mean.

    Far means more than `FAR_STDS` standard deviations.
    """
    labels = np.concatenate([episode.actions for episode in episodes])[:, :6]
    clipped = (labels < np.array(contract.action.low) - 1e-9) | (labels > np.array(contract.action.high) + 1e-9)
    shares = {f"action {axis}": float(share) for axis, share in zip(ARM_AXES, clipped.mean(axis=0), strict=True)}
    known = contract.proprioception
    if known is not None:
        states = np.concatenate([episode.proprioception for episode in episodes])
        far = np.abs(states - np.array(known.mean)) > FAR_STDS * np.array(known.std)
        shares |= {f"state {name}": float(share) for name, share in zip(known.names, far.mean(axis=0), strict=True)}
    return shares


def check_statistics(contract: PolicyContract, episodes: Sequence[Episode]) -> None:
    """Print which axes of the demonstrations do not fit the starting checkpoint's statistics.

    Raises:
        ConfigError: more than `MAX_OUTSIDE` of an axis does not.
    """
    shares = outside_statistics(contract, episodes)

    def beyond(limit: float) -> str:
        return ", ".join(f"{axis}: {share:.0%}" for axis, share in shares.items() if share > limit)

    if beyond(MAX_OUTSIDE):
        raise ConfigError(
            "the demonstrations do not fit the checkpoint of init_from: outside its action bounds or known states is "
            f"{beyond(MAX_OUTSIDE)} (at most {MAX_OUTSIDE:.0%}). Check that it is for this robot, in these units and "
            "at this speed, or train from scratch, with a contract instead of init_from"
        )
    if beyond(WARN_OUTSIDE):
        print(f"warning: outside the action bounds or known states of init_from is {beyond(WARN_OUTSIDE)}")


def check_commands(policy: Policy, commands: Iterable[str]) -> None:
    """Raise ConfigError for a command that the contract's `max_tokens` would truncate."""
    language = policy.contract.language
    for command in sorted(set(commands)):
        length = len(policy.tokenizer.encode(language.prompt(command)))
        if length > language.max_tokens:
            raise ConfigError(
                f"the command {command!r} has {length} tokens, more than max_tokens = {language.max_tokens}; record "
                "shorter commands, or train from scratch with a larger contract.max_tokens"
            )
