# SPDX-License-Identifier: Apache-2.0
"""Mismatches are found by name where they were planted, and nowhere else."""

from __future__ import annotations

import dataclasses

import pytest
from reading_policy import NAMES, ReadingPolicy, contract_of, make_episode

from vla_ros.evaluation.replay.diagnosis import diagnose
from vla_ros.evaluation.replay.fault_injection import FAULTS
from vla_ros.evaluation.replay.weak_evidence import FEWEST_EPISODES


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_mismatch_is_found_by_its_name_alone(fault: str) -> None:
    planted, contract = FAULTS[fault], contract_of()
    episodes = [make_episode(seed, 30) for seed in range(6)]
    if planted.episode:
        episodes = [planted.episode(episode, NAMES, contract) for episode in episodes]
    policy = ReadingPolicy(planted.contract(contract) if planted.contract else contract)
    diagnosis = diagnose(policy, episodes, NAMES)
    assert {finding.name for finding in diagnosis.findings} == {planted.name}, diagnosis
    assert not diagnosis.unexplained


@pytest.mark.parametrize(("first_seed", "doubt"), [(0, 0.02), (100, 0.2), (200, 0.2)])
def test_nothing_is_found_where_everything_fits(first_seed: int, doubt: float) -> None:
    """A policy that is far from perfect is no mismatch."""
    episodes = [make_episode(first_seed + seed) for seed in range(6)]
    diagnosis = diagnose(ReadingPolicy(contract_of(), doubt), episodes, NAMES)
    assert not diagnosis.findings and not diagnosis.unexplained


def test_two_mismatches_are_both_found() -> None:
    episodes = [make_episode(seed, 30) for seed in range(6)]
    for fault in ("BGR", "gripper command inverted"):
        episodes = [FAULTS[fault].episode(episode, NAMES, contract_of()) for episode in episodes]
    found = {finding.name for finding in diagnose(ReadingPolicy(contract_of()), episodes, NAMES).findings}
    assert found == {FAULTS["BGR"].name, FAULTS["gripper command inverted"].name}


def test_a_policy_that_does_something_else_altogether_is_unexplained() -> None:
    episodes = [make_episode(seed) for seed in range(6)]
    others = [make_episode(seed + 50) for seed in range(6)]
    mixed = [dataclasses.replace(one, actions=other.actions) for one, other in zip(episodes, others, strict=True)]
    diagnosis = diagnose(ReadingPolicy(contract_of()), mixed, NAMES)
    assert diagnosis.unexplained and not diagnosis.findings


@pytest.mark.parametrize("fault", ["half control rate", "Euler rates for a rotation vector"])
@pytest.mark.parametrize("count", [1, FEWEST_EPISODES - 1])
def test_what_shows_in_the_spread_of_episodes_is_not_named_where_a_few_have_none(fault: str, count: int) -> None:
    """A single demonstration that was done a little slower is no other control rate."""
    episodes = [FAULTS[fault].episode(make_episode(seed, 30), NAMES, contract_of()) for seed in range(count)]
    assert not diagnose(ReadingPolicy(contract_of()), episodes, NAMES).findings
