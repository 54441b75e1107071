# SPDX-License-Identifier: Apache-2.0
"""Poses from transforms as they arrive, and the explanation if there are none."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.geometry import rigid
from vla_ros.geometry.rigid import Pose
from vla_ros.geometry.transforms import INTERPOLATED_NS, KEPT_SAMPLES, Transform, TransformTree

MS = 1_000_000
HALF_TURN_Z = (0.0, 0.0, 1.0, 0.0)


def at(x: float, quaternion: tuple[float, ...] = (0.0, 0.0, 0.0, 1.0)) -> Pose:
    return (x, 0.0, 0.0, *quaternion)


def link(stamp_ms: float, parent: str, child: str, x: float = 0.0, **fields: tuple[float, ...]) -> Transform:
    return Transform(round(stamp_ms * MS), parent, child, at(x, **fields))


def arm(stamp_ms: float, x: float = 1.0) -> list[Transform]:
    """base -> a -> b -> tool, as one message of a robot's state publisher."""
    return [link(stamp_ms, "base", "a", x), link(stamp_ms, "a", "b", 10.0), link(stamp_ms, "b", "tool", 100.0)]


def tree() -> TransformTree:
    return TransformTree("base", "tool")


def seen(found: list[tuple[int, Pose]]) -> list[tuple[float, float]]:
    return [(stamp_ns / MS, round(pose[0], 9)) for stamp_ns, pose in found]


def test_a_chain_at_one_stamp_is_one_pose():
    assert seen(tree().add(arm(5, x=1.0))) == [(5, 111.0)]


def test_frames_are_the_same_with_and_without_a_leading_slash():
    slashed = TransformTree("/base", "tool")
    assert seen(slashed.add([link(5, "/base", "/a", 1), link(5, "a", "/tool", 10)])) == [(5, 11.0)]


def test_rotations_turn_what_is_below_them():
    found = tree().add([link(0, "base", "a", 1.0, quaternion=HALF_TURN_Z), link(0, "a", "tool", 10.0)])
    assert seen(found) == [(0, -9.0)]


def test_frames_that_hang_side_by_side_are_connected_over_the_one_that_they_share():
    """As UR's base and tool0, both below base_link."""
    side = TransformTree("base", "tool")
    quarter_turn = (0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5))
    assert side.add([link(0, "base_link", "base", 1.0, quaternion=quarter_turn)], static=True) == []
    found = side.add([link(3, "base_link", "a", 5.0), link(3, "a", "tool", 10.0), link(3, "world", "base_link", 7.0)])
    ((_, pose),) = found
    np.testing.assert_allclose(pose, [0, -14, 0, 0, 0, -math.sqrt(0.5), math.sqrt(0.5)], atol=1e-12)


def test_links_of_several_publishers_make_a_pose_when_the_last_one_has_come():
    one = tree()
    assert [one.add([part]) for part in arm(5)[::-1]] == [[], [], [(5 * MS, at(111.0))]]


@pytest.mark.parametrize("static_first", [True, False])
def test_static_links_hold_at_all_stamps_whenever_they_come(static_first):
    one, fixed = tree(), [link(99, "a", "tool", 10.0)]
    moving = [link(stamp_ms, "base", "a", stamp_ms) for stamp_ms in (0, 20, 40)]
    if static_first:
        assert one.add(fixed, static=True) == []
        found = [pose for part in moving for pose in one.add([part])]
    else:
        assert [one.add([part]) for part in moving] == [[]] * 3
        found = one.add(fixed, static=True)
    assert seen(found) == [(0, 10.0), (20, 30.0), (40, 50.0)]


def test_a_static_link_that_is_published_anew_counts_from_then_on():
    one = tree()
    one.add([link(0, "a", "tool", 10.0)], static=True)
    assert seen(one.add([link(0, "base", "a")])) == [(0, 10.0)]
    assert one.add([link(5, "a", "tool", 20.0)], static=True) == []
    assert seen(one.add([link(9, "base", "a")])) == [(9, 20.0)]
    one.prime([link(9, "a", "tool", 30.0)])  # what was latched before counts where nothing is known yet
    assert seen(one.add([link(10, "base", "a")])) == [(10, 20.0)]


def test_between_close_stamps_a_link_is_interpolated_and_between_far_ones_it_is_not():
    one = tree()
    one.add([link(0, "base", "a", 0.0)])
    one.add([link(40, "base", "a", 4.0)])
    one.add([link(40 + INTERPOLATED_NS / MS + 1, "base", "a", 9.0)])
    found = [pose for stamp_ms in (-1, 10, 60, 92) for pose in one.add([link(stamp_ms, "a", "tool", 100.0)])]
    # Of the stamps of either link: 10 lies between 0 and 40; 40 between 10 and 60; 91 between 60 and 92; 60 is too far.
    assert seen(found) == [(0, 100.0), (10, 101.0), (40, 104.0), (91, 109.0)]


def test_stamps_that_come_late_or_twice_give_each_pose_once():
    one, messages = tree(), [[part] for stamp_ms in range(0, 400, 20) for part in arm(stamp_ms, x=stamp_ms)]
    messages += messages[::3]
    random.Random(3).shuffle(messages)
    found = [pose for message in messages for pose in one.add(message)]
    # Those that came while a neighbour was missing were waited for, so that all are exact.
    assert sorted(seen(found)) == [(stamp_ms, stamp_ms + 110.0) for stamp_ms in range(0, 400, 20)]
    assert one.problem is None and not one.faults


def test_the_first_of_two_samples_at_one_stamp_counts():
    one = tree()
    assert seen(one.add([link(1, "base", "tool", 1.0), link(1, "base", "tool", 2.0)])) == [(1, 1.0)]
    assert one.add([link(1, "base", "tool", 3.0)]) == []


def test_once_the_chain_is_known_other_frames_are_not_wanted():
    one = tree()
    assert one.wants("anything")
    one.add([*arm(0), link(0, "base", "camera")])
    assert [one.wants(frame) for frame in ("a", "/tool", "camera", "base", "elsewhere")] == [True, True] + [False] * 3


def test_memory_does_not_grow_with_time():
    one = tree()
    for stamp_ms in range(20_000):
        one.add(arm(stamp_ms))
        one.add([link(stamp_ms + 0.5, "base", "a")])  # never known for the other links at that stamp before the next
    for kept in (*(each.stamps for each in one._links.values()), one._given, one._waiting):
        assert len(kept) <= KEPT_SAMPLES


@pytest.mark.parametrize(
    "bad, why",
    [
        (link(5, "b", "tool", math.nan), "'tool' in 'b': not finite"),
        (link(5, "b", "tool", quaternion=(0.0, 0.0, 0.0, math.inf)), "'tool' in 'b': not finite"),
        (link(5, "b", "tool", quaternion=(0.0, 0.0, 0.0, 0.0)), "'tool' in 'b': its quaternion is not of unit length"),
        (link(5, "b", "tool", quaternion=(0.0, 0.0, 0.0, 1.01)), "'tool' in 'b': its quaternion is not of unit length"),
        (link(5, "tool", "/tool"), "'tool' is its own parent"),
        (link(5, "", "tool"), "a transform lacks a frame name"),
    ],
)
def test_invalid_transforms_yield_no_pose_and_are_counted_as_faults(bad, why):
    one = tree()
    assert seen(one.add(arm(0))) == [(0, 111.0)]
    assert one.add([*arm(5)[:2], bad]) == []
    ((told, count),) = one.faults.items()
    assert told.startswith(why) and count == 1
    assert seen(one.add(arm(80))) == [(80, 111.0)]


def test_a_quaternion_that_is_almost_of_length_one_is_made_so():
    ((_, pose),) = tree().add([link(0, "base", "tool", quaternion=(0.0, 0.6004, 0.0, 0.8))])
    assert abs(np.linalg.norm(pose[3:]) - 1) < 1e-15


def test_a_missing_link_is_named_together_with_the_known_frames():
    one = tree()
    assert one.problem == (
        "no chain of transforms leads from 'base' to 'tool': no transform names 'base' or 'tool'; known frames: none"
    )
    one.add([link(0, "base", "a"), link(0, "b", "c")])
    assert one.problem.endswith("no transform names 'tool'; known frames: a, b, base, c")
    one.add([link(0, "c", "tool")])
    assert one.problem.endswith(
        "'tool' leads up to 'b', which has no parent, 'base' to 'base'; known frames: a, b, base, c, tool"
    )
    assert seen(one.add([link(0, "a", "b", 7.0)])) == [(0, 7.0)]
    assert one.problem is None


def test_many_frames_are_not_all_named():
    one = tree()
    one.add([link(0, f"p{number}", f"f{number}") for number in range(500)])
    assert one.problem.endswith(", ...") and len(one.problem) < 700


def test_a_loop_of_parents_is_named_and_ends():
    one = tree()
    assert one.add([link(0, "a", "tool"), link(0, "b", "a"), link(0, "a", "b"), link(0, "world", "base")]) == []
    assert "is a loop of parents" in one.problem and "a -> b -> a" in one.problem.replace("b -> a -> b", "a -> b -> a")


def test_links_that_are_never_known_at_the_same_time_are_named():
    one = tree()
    for stamp_ms in range(0, 1000, 10):
        assert one.add([link(stamp_ms, "base", "a")]) == []
    assert one.add([link(-300, "a", "tool")]) == []
    assert "never known at the same time: 'tool' in 'a' has no sample within 50 ms" in one.problem


def test_a_chain_of_static_links_only_has_no_time():
    one = tree()
    assert one.add([link(0, "base", "a"), link(0, "a", "tool")], static=True) == []
    assert "are static and so carry no time" in one.problem


def test_a_frame_may_move_to_another_parent():
    """A tool changer: the tool goes from one hand to the other."""
    one = tree()
    hands = [link(0, "base", "left", 1.0), link(0, "base", "right", 2.0)]
    assert one.add(hands, static=True) == []
    found = [pose for t in (0, 10, 20) for pose in one.add([link(t, "left", "tool", 10.0)])]
    found += [pose for t in (30, 40) for pose in one.add([link(t, "right", "tool", 10.0)])]
    found += one.add([link(15, "left", "tool", 10.0)])  # late, from before
    assert seen(found) == [(0, 11.0), (10, 11.0), (20, 11.0), (30, 12.0), (40, 12.0)]
    assert one.faults == {"'tool' moved from 'left' to 'right'": 1}


def test_a_frame_under_alternating_parents_has_no_pose():
    one = tree()
    one.add([link(0, "base", "left", 1.0), link(0, "base", "right", 2.0)], static=True)
    found = []
    for stamp_ms in range(0, 500, 10):
        found += one.add([link(stamp_ms, "left", "tool")]) + one.add([link(stamp_ms + 3, "right", "tool")])
    assert [stamp_ms for stamp_ms, _ in seen(found)] == [0, 3]
    assert any("'tool' alternates between the parents 'left' and 'right'" in fault for fault in one.faults)
    quiet = [pose for stamp_ms in range(500, 2100, 10) for pose in one.add([link(stamp_ms, "left", "tool")])]
    assert seen(quiet)[0][0] > 1000 and seen(quiet)[-1] == (2090, 1.0)


def test_a_frame_under_two_parents_at_one_stamp_has_no_pose():
    one = tree()
    one.add([link(0, "base", "left", 1.0), link(0, "base", "right", 2.0)], static=True)
    found = []
    for stamp_ms in range(0, 500, 10):
        found += one.add([link(stamp_ms, "left", "tool"), link(stamp_ms, "right", "tool")])
    assert found == []


def test_after_the_clock_was_set_back_only_static_links_are_known():
    one = tree()
    one.add([link(0, "a", "tool", 10.0)], static=True)
    one.add([link(90_000, "base", "a")])
    one.clear()
    assert one.problem is not None
    assert seen(one.add([link(5, "base", "a", 1.0)])) == [(5, 11.0)]


def test_a_stamp_of_the_far_future_does_not_silence_the_chain():
    one = tree()
    assert seen(one.add(arm(0))) == [(0, 111.0)]
    one.add([arm(3_600_000)[0]])
    assert seen(one.add(arm(10))) == [(10, 111.0)]


numbers = st.floats(-5, 5)


@given(st.lists(st.tuples(numbers, numbers, numbers, numbers, numbers, numbers), min_size=1, max_size=8), st.data())
def test_any_chain_is_the_product_of_its_links_in_any_order_of_receipt(links, data):
    from scipy.spatial.transform import Rotation

    frames = ["base", *(f"link{number}" for number in range(1, len(links))), "tool"]
    poses = [(*each[:3], *Rotation.from_rotvec(each[3:]).as_quat().tolist()) for each in links]
    parts = [Transform(7, *pair, pose) for pair, pose in zip(itertools.pairwise(frames), poses)]
    static = data.draw(st.sets(st.integers(0, len(parts) - 1), max_size=len(parts) - 1))
    one, found = tree(), []
    for number in data.draw(st.permutations(range(len(parts)))):
        found += one.add([parts[number]], static=number in static)
    expected = rigid.IDENTITY
    for pose in poses:
        expected = rigid.compose(expected, pose)
    ((stamp_ns, pose),) = found
    assert stamp_ns == 7
    np.testing.assert_allclose(pose, expected, atol=1e-9)
