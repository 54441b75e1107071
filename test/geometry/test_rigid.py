# SPDX-License-Identifier: Apache-2.0
"""Rigid motions against scipy's rotations."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from vla_ros.geometry import rigid
from vla_ros.geometry.rigid import Pose

metres = st.floats(-10, 10)


@st.composite
def poses(draw: st.DrawFn) -> Pose:
    rotation = Rotation.from_rotvec([draw(st.floats(-4, 4)) for _ in range(3)])
    sign = draw(st.sampled_from((-1.0, 1.0)))  # q and -q are the same rotation
    return (draw(metres), draw(metres), draw(metres), *(sign * rotation.as_quat()).tolist())


def matrix(pose: Pose) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = Rotation.from_quat(pose[3:]).as_matrix(), pose[:3]
    return result


@given(poses(), poses())
def test_a_composition_is_the_product_of_the_matrices(outer: Pose, inner: Pose) -> None:
    np.testing.assert_allclose(matrix(rigid.compose(outer, inner)), matrix(outer) @ matrix(inner), atol=1e-12)


@given(poses(), poses(), poses())
def test_it_does_not_matter_which_links_are_put_together_first(a: Pose, b: Pose, c: Pose) -> None:
    left, right = rigid.compose(rigid.compose(a, b), c), rigid.compose(a, rigid.compose(b, c))
    np.testing.assert_allclose(left, right, atol=1e-12)


@given(poses())
def test_the_inverse_undoes_a_motion_from_either_side(pose: Pose) -> None:
    for there_and_back in (rigid.compose(pose, rigid.inverse(pose)), rigid.compose(rigid.inverse(pose), pose)):
        np.testing.assert_allclose(matrix(there_and_back), np.eye(4), atol=1e-12)


@given(poses(), poses(), st.floats(0, 1))
def test_between_two_poses_are_a_line_and_the_shorter_arc(start: Pose, end: Pose, fraction: float) -> None:
    found = rigid.interpolate(start, end, fraction)
    np.testing.assert_allclose(
        found[:3], np.array(start[:3]) * (1 - fraction) + np.array(end[:3]) * fraction, atol=1e-9
    )
    ends = Rotation.from_quat([start[3:], end[3:]])
    if (ends[0].inv() * ends[1]).magnitude() < 3.1:  # of half a turn, both ways are the shorter one
        expected = Slerp([0, 1], ends)(fraction).as_matrix()
        np.testing.assert_allclose(matrix(found)[:3, :3], expected, atol=1e-6)
    assert abs(np.linalg.norm(found[3:]) - 1) < 1e-12
