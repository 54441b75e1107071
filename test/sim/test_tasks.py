# SPDX-License-Identifier: Apache-2.0
"""Tasks: their commands, and when they succeed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vla_ros.sim.state import SceneState
from vla_ros.sim.tasks import KINDS, TASKS, TRAINED_TASKS
from vla_ros.sim.tasks.task import Task

START = SceneState(
    tcp_position=np.array([0.45, 0.0, 0.2]),
    tcp_rotation=np.diag([1.0, -1.0, -1.0]),
    opening=1.0,
    block_positions={
        "red": np.array([0.40, -0.1, 0.02]),
        "green": np.array([0.45, 0.0, 0.02]),
        "blue": np.array([0.40, 0.1, 0.02]),
    },
    block_quaternions=dict.fromkeys(("red", "green", "blue"), np.array([1.0, 0.0, 0.0, 0.0])),
    box_position=np.array([0.45, 0.23, 0.0]),
    knob_position=np.array([0.70, 0.0, 0.055]),
    drawer_m=0.05,
)


def with_red_at(position: list[float], **changes) -> SceneState:
    return replace(START, block_positions={**START.block_positions, "red": np.array(position)}, **changes)


def test_there_are_14_trained_3_novel_and_1_memory_task():
    assert len(TRAINED_TASKS) == 14
    assert [name for name, task in TASKS.items() if task.role == "memory"] == ["nudge_lit"]
    novel = [name for name, task in TASKS.items() if task.role == "novel"]
    assert novel == ["push_away_red", "push_away_green", "push_away_blue"]


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_phrasings_are_new_sentences_of_known_words(kind: type[Task]):
    phrasings, held_out = kind.training_templates, kind.held_out_templates
    assert 6 <= len(set(phrasings)) <= 8 and 2 <= len(set(held_out)) <= 3
    assert not set(phrasings) & set(held_out)
    words = {word for text in phrasings for word in text.split()}
    assert {word for text in held_out for word in text.split()} <= words


def test_no_command_belongs_to_two_tasks():
    commands = [text for task in TASKS.values() for text in task.phrasings + task.held_out]
    assert len(commands) == len(set(commands))
    assert not any("{" in text for text in commands)


@pytest.mark.parametrize(
    ("name", "moved", "done"),
    [
        ("push_left_red", [0.0, 0.07], True),
        ("push_right_red", [0.0, -0.07], True),
        ("push_away_red", [0.07, 0.0], True),
        ("push_left_red", [0.0, 0.05], False),
        ("push_left_red", [0.0, -0.07], False),
        ("push_right_red", [0.0, 0.07], False),
        ("push_away_red", [-0.07, 0.0], False),
        ("push_left_red", [0.05, 0.07], False),  # went sideways nearly as far
        ("push_left_green", [0.0, 0.07], False),  # the red one moved
    ],
)
def test_a_push_counts_in_its_direction_only(name, moved, done):
    now = with_red_at([0.40 + moved[0], -0.1 + moved[1], 0.02])
    assert TASKS[name].success(START, now) is done


@pytest.mark.parametrize("position", [[0.40, 0.0, -0.3], [0.40, 0.0, 0.1], [0.45, 0.23, 0.024]])
def test_a_block_that_fell_was_lifted_or_is_in_the_box_was_not_pushed(position):
    assert not TASKS["push_left_red"].success(START, with_red_at(position))


def test_a_pick_needs_height_and_a_grasp():
    task = TASKS["pick_up_red"]
    lifted = [0.45, 0.0, 0.12]
    assert task.success(START, with_red_at(lifted, tcp_position=np.array([0.45, 0.0, 0.13]), opening=0.5))
    assert not task.success(START, with_red_at(lifted, tcp_position=np.array([0.45, 0.2, 0.13]), opening=0.5))
    assert not task.success(START, with_red_at([0.45, 0.0, 0.05], tcp_position=np.array([0.45, 0, 0.06]), opening=0.5))


def test_a_block_in_the_box_counts_once_it_is_released():
    task = TASKS["put_in_box_red"]
    inside = [0.46, 0.22, 0.03]
    assert task.success(START, with_red_at(inside, opening=1.0))
    assert not task.success(START, with_red_at(inside, opening=0.5))
    assert not task.success(START, with_red_at(inside, opening=1.0, tcp_position=np.array([0.46, 0.22, 0.05])))
    assert not task.success(START, with_red_at([0.46, 0.15, 0.02], opening=1.0))


def test_the_drawer_must_have_moved():
    assert TASKS["open_drawer"].success(START, replace(START, drawer_m=0.10))
    assert not TASKS["open_drawer"].success(START, replace(START, drawer_m=0.08))
    assert TASKS["close_drawer"].success(START, replace(START, drawer_m=0.01))
    assert not TASKS["close_drawer"].success(START, replace(START, drawer_m=0.02))
    for name, drawer_m in (("open_drawer", 0.12), ("close_drawer", 0.0)):
        there_already = replace(START, drawer_m=drawer_m)
        assert not TASKS[name].success(there_already, there_already)


def test_a_nudge_counts_only_for_the_block_that_glowed():
    lit, task = replace(START, lit="red", dark=True), TASKS["nudge_lit"]
    assert task.success(lit, with_red_at([0.43, -0.1, 0.02]))
    assert not task.success(lit, with_red_at([0.41, -0.1, 0.02]))
    assert not task.success(replace(lit, lit="blue"), with_red_at([0.43, -0.1, 0.02]))
    assert not task.success(START, with_red_at([0.43, -0.1, 0.02]))
    both = with_red_at([0.43, -0.1, 0.02])
    both.block_positions["green"] = np.array([0.47, 0.0, 0.02])
    assert not task.success(lit, both)
