# SPDX-License-Identifier: Apache-2.0
"""What a contract requires of a data set, and the recipe's settings that resolve what does not fit."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest

from vla_ros.contract import Camera, ObservationSpec, Timing
from vla_ros.datasets.contents import Contents, mismatches, require_recorded, states_of
from vla_ros.datasets.errors import SourceError

CONTENTS = Contents("kitchen", "LeRobot", Fraction(5), ("static",), states_of(pose=True, opening=False))
STATIC, WRIST = Camera("static", 8, 8), Camera("wrist", 8, 8)


def test_what_fits_passes() -> None:
    require_recorded(CONTENTS, ObservationSpec((STATIC,), ("ee_x", "ee_r5")), Timing(5.0, 1, 1))


def test_every_mismatch_comes_with_the_setting_that_resolves_it() -> None:
    spec = ObservationSpec((STATIC, WRIST), ("ee_x", "gripper_opening"))
    found = mismatches(CONTENTS, spec, Timing(10.0, 1, 1))
    texts, settings = zip(*found)
    assert [text.partition(";")[0] for text in texts] == [
        "contract.control_hz is 10, but kitchen was recorded at 5 Hz",
        "kitchen has no camera 'wrist'",
        "kitchen has no gripper state",
    ]
    assert settings[0] == "contract.control_hz=5" and '"wrist"' not in settings[1] and '"static"' in settings[1]
    assert settings[2] == 'contract.proprioception=["ee_x"]'
    with pytest.raises(SourceError, match=texts[0]):
        require_recorded(CONTENTS, spec, Timing(10.0, 1, 1))


def test_without_any_camera_of_the_contract_those_of_the_data_set_are_offered() -> None:
    ((_, setting),) = mismatches(CONTENTS, ObservationSpec((WRIST,)), Timing(5.0, 1, 1))
    assert setting is not None and '"name":"static"' in setting
    blind = dataclasses.replace(CONTENTS, cameras=())
    assert [setting for _, setting in mismatches(blind, ObservationSpec((WRIST,)), Timing(5.0, 1, 1))] == [None]


@pytest.mark.parametrize("rate_hz", [Fraction(15), Fraction(30000, 1001)])
def test_the_rate_that_resolves_one_that_is_too_high_is_the_data_set_s_own(rate_hz: Fraction) -> None:
    recorded = dataclasses.replace(CONTENTS, rate_hz=rate_hz)
    [(_, setting)] = mismatches(recorded, ObservationSpec((STATIC,), ()), Timing(50.0, 1, 1, settle_s=0.01))
    assert setting is not None
    control_hz = float(setting.partition("=")[2])
    assert Timing(control_hz, 1, 1).grid.rate_hz == rate_hz
    assert mismatches(recorded, ObservationSpec((STATIC,), ()), Timing(control_hz, 1, 1)) == []
