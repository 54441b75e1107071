# SPDX-License-Identifier: Apache-2.0
"""A recording in place of a policy: each action is due at its tick, no matter when its chunk arrives."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from policy_bench import contract

from vla_ros.observations.observation import Observation
from vla_ros.runtime.playback import LEAD_S, REST_S, Playback

HZ = contract().timing.control_hz
CHUNK = contract().timing.chunk
LEAD, REST = round(LEAD_S * HZ), round(REST_S * HZ)
ACTIONS = np.concatenate([np.arange(1, 13).reshape(12, 1) * np.ones((12, 6)), np.ones((12, 1))], axis=1)
ACTIONS[6:, 6] = 0.0


def make(speed: float = 1.0) -> Playback:
    return Playback(contract(), ACTIONS, "push", speed)


def seen(tick: int) -> Observation:
    state = np.array([tick, 0.5], dtype=np.float32)
    return Observation(contract().timing.grid.start_ns(tick), {}, {}, state, "push")


def played(playback: Playback, first_tick: int, ticks: int, every: int = 1) -> np.ndarray:
    """Return what is due at each tick, with a new chunk at every `every`-th tick."""
    due = []
    for tick in range(first_tick, first_tick + ticks):
        if (tick - first_tick) % every == 0:
            made_at, chunk = tick, playback.step(seen(tick))
        due.append(chunk[tick - made_at])
    return np.array(due)


def test_it_stands_still_until_it_begins_and_leaves_the_gripper_as_it_is() -> None:
    playback = make()
    playback.reset("push")
    chunk = playback.step(seen(100))
    assert chunk.shape == (CHUNK, 7)
    assert not chunk[:, :6].any() and (chunk[:, 6] == 0.5).all()
    assert not playback.over


def test_every_action_is_due_once_after_the_lead_and_then_it_rests() -> None:
    playback = make()
    playback.begin()
    due = played(playback, 100, LEAD + 12 + REST)
    assert not due[:LEAD, :6].any() and (due[:LEAD, 6] == 1.0).all()
    assert (due[LEAD : LEAD + 12] == ACTIONS).all()
    assert not due[LEAD + 12 :, :6].any() and (due[LEAD + 12 :, 6] == 0.0).all()
    assert not playback.over
    playback.step(seen(100 + LEAD + 12 + REST))
    assert playback.over


def test_infrequent_chunks_skip_nothing() -> None:
    often, seldom = make(), make()
    often.begin()
    seldom.begin()
    assert (played(often, 100, 40) == played(seldom, 100, 40, every=CHUNK)).all()


def test_at_low_speed_each_action_holds_longer_and_the_path_stays_the_same() -> None:
    playback = make(0.25)
    playback.begin()
    due = played(playback, 100, LEAD + 48)[LEAD:]
    assert (due == np.repeat(ACTIONS, 4, axis=0)).all()
    assert 0.25 * due[:, 0].sum() == ACTIONS[:, 0].sum()  # the governor scales the twists


def test_each_state_is_stored_with_the_recorded_frame_that_was_due() -> None:
    playback = make(0.5)
    played(playback, 90, 3)
    assert [(one.frame, one.proprioception[0]) for one in playback.seen] == [(0.0, 92.0)]  # the newest one before
    playback.begin()
    played(playback, 100, LEAD + 24)
    frames = {one.proprioception[0]: one.frame for one in playback.seen[1:]}
    assert frames[100 + LEAD] == 0.0 and frames[100 + LEAD + 3] == 1.5 and frames[100] == -LEAD / 2


def test_another_command_ends_the_playback_unless_it_came_before() -> None:
    playback = make()
    playback.reset("pull")  # what was said before
    playback.reset("push")
    playback.begin()
    played(playback, 100, LEAD + 3)
    assert playback.interrupted is None
    playback.reset("stop and go home")
    chunk = playback.step(dataclasses.replace(seen(100 + LEAD + 3), command="stop and go home"))
    assert playback.interrupted == "stop and go home"
    assert not chunk[:, :6].any() and (chunk[:, 6] == 0.5).all()
    assert playback.seen[-1].frame == 2.0  # what was measured stays


@pytest.mark.parametrize("speed", [0.0, -1.0, 1.5, float("nan")])
def test_an_invalid_speed_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match=r"speed must be in \(0, 1\]; got"):
        make(speed)


def test_no_actions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"actions must have shape .*; got \(0, 7\)"):
        Playback(contract(), np.zeros((0, 7)), "push", 1.0)
