# SPDX-License-Identifier: Apache-2.0
"""Injected mismatches are found by name, and no others."""

from __future__ import annotations

import dataclasses

import pytest
from injected_mismatches import INJECTED
from reading_policy import NAMES, ReadingPolicy, contract_of, make_episode

from vla_ros.evaluation.replay.diagnosis import diagnose
from vla_ros.evaluation.replay.small_effects import MIN_EPISODES


@pytest.mark.parametrize("fault", INJECTED)
def test_an_injected_mismatch_is_found_by_its_name_alone(fault: str) -> None:
    injected, contract = INJECTED[fault], contract_of()
    episodes = [make_episode(seed, 30) for seed in range(6)]
    if injected.episode:
        episodes = [injected.episode(episode, NAMES, contract) for episode in episodes]
    policy = ReadingPolicy(injected.contract(contract) if injected.contract else contract)
    diagnosis = diagnose(policy, episodes, NAMES)
    assert {finding.name for finding in diagnosis.findings} == {injected.name}, diagnosis
    assert not diagnosis.unexplained


@pytest.mark.parametrize(("first_seed", "doubt"), [(0, 0.02), (100, 0.2), (200, 0.2)])
def test_nothing_is_found_if_everything_matches(first_seed: int, doubt: float) -> None:
    """An imperfect policy is not a mismatch."""
    episodes = [make_episode(first_seed + seed) for seed in range(6)]
    diagnosis = diagnose(ReadingPolicy(contract_of(), doubt), episodes, NAMES)
    assert not diagnosis.findings and not diagnosis.unexplained


def test_two_mismatches_are_both_found() -> None:
    episodes = [make_episode(seed, 30) for seed in range(6)]
    for fault in ("BGR", "gripper command inverted"):
        episodes = [INJECTED[fault].episode(episode, NAMES, contract_of()) for episode in episodes]
    found = {finding.name for finding in diagnose(ReadingPolicy(contract_of()), episodes, NAMES).findings}
    assert found == {INJECTED["BGR"].name, INJECTED["gripper command inverted"].name}


def test_a_policy_that_does_something_else_is_unexplained() -> None:
    episodes = [make_episode(seed) for seed in range(6)]
    others = [make_episode(seed + 50) for seed in range(6)]
    mixed = [dataclasses.replace(one, actions=other.actions) for one, other in zip(episodes, others, strict=True)]
    diagnosis = diagnose(ReadingPolicy(contract_of()), mixed, NAMES)
    assert diagnosis.unexplained and not diagnosis.findings


@pytest.mark.parametrize("fault", ["half control rate", "Euler rates for a rotation vector"])
@pytest.mark.parametrize("count", [1, MIN_EPISODES - 1])
def test_small_effects_are_not_reported_for_fewer_episodes(fault: str, count: int) -> None:
    """A single demonstration that was a little slower does not prove another control rate."""
    episodes = [INJECTED[fault].episode(make_episode(seed, 30), NAMES, contract_of()) for seed in range(count)]
    assert not diagnose(ReadingPolicy(contract_of()), episodes, NAMES).findings
