# SPDX-License-Identifier: Apache-2.0
"""Whether demonstrations fit the policy that is to learn from them; asked before the training begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from vla_ros.contract import ARM_AXES, PolicyContract
from vla_ros.datasets.episode import Episode
from vla_ros.policy.policy import Policy
from vla_ros.train.config import ConfigError

# Fine-tuning keeps the old statistics. Even of the demonstrations they were made from, 2 % of an axis are outside.
OUTSIDE_WORTH_SAYING, OUTSIDE_TOO_MUCH = 0.05, 0.3
FAR_STDS = 5.0


def outside_statistics(contract: PolicyContract, episodes: Sequence[Episode]) -> dict[str, float]:
    """Return by axis the share of labels that the contract's bounds clip, and of states that are unlike its own.

    A state is unlike them when it is more than ``FAR_STDS`` standard deviations from their mean.
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
    """Say which axes of demonstrations to fine-tune on do not fit the statistics of the starting checkpoint.

    Raises:
        ConfigError: more than ``OUTSIDE_TOO_MUCH`` of an axis do not.
    """
    shares = outside_statistics(contract, episodes)

    def beyond(limit: float) -> str:
        return ", ".join(f"{axis}: {share:.0%}" for axis, share in shares.items() if share > limit)

    if beyond(OUTSIDE_TOO_MUCH):
        raise ConfigError(
            "the demonstrations do not fit the checkpoint of init_from: outside the range that it can act in or knows "
            f"is {beyond(OUTSIDE_TOO_MUCH)}; allowed: {OUTSIDE_TOO_MUCH:.0%}. Is it for this robot, in these units, at "
            "this speed? Record as its demonstrations were, or train from scratch, with a contract instead of init_from"
        )
    if beyond(OUTSIDE_WORTH_SAYING):
        known = "outside the range that the checkpoint of init_from can act in or knows"
        print(f"note: {known} is {beyond(OUTSIDE_WORTH_SAYING)}")


def check_commands(policy: Policy, commands: Iterable[str]) -> None:
    """Raise ConfigError for a command whose prompt has more than the contract's ``max_tokens``: it would be cut off."""
    language = policy.contract.language
    for command in sorted(set(commands)):
        length = len(policy.tokenizer.encode(language.prompt(command)))
        if length > language.max_tokens:
            raise ConfigError(
                f"the command {command!r} has {length} tokens; allowed: max_tokens = {language.max_tokens}. Record "
                "with shorter commands, or train from scratch with a larger contract.max_tokens"
            )
