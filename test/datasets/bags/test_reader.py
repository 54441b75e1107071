# SPDX-License-Identifier: Apache-2.0
"""Bags to episodes: what the live node would have seen, and a report of the rest."""

from __future__ import annotations

import dataclasses
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from recordings import read_bag

from vla_ros.contract import Camera, ObservationSpec, Timing
from vla_ros.datasets.bags.open_bag import open_bag
from vla_ros.datasets.bags.streams import observations
from vla_ros.datasets.errors import BagError
from vla_ros.imaging import images
from vla_ros.observations.messages import message_time_ns, observation_value
from vla_ros.observations.observation import Observation, ObservationBuffer, Refusal
from vla_ros.robot import Robot, load_robot

if TYPE_CHECKING:
    from recordings import BagBuilder

Read = Callable[..., tuple]

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000  # where the builder's times begin, a tick of the control grid


@pytest.fixture
def read(robot: Robot, spec: ObservationSpec, timing: Timing, tmp_path: Path) -> Read:
    """Write a builder's bag and read it."""

    def written_and_read(built: BagBuilder, name: str = "bag", **options: object) -> tuple:
        return read_bag(built.write(tmp_path / name), robot, spec, timing, **options)

    return written_and_read


def shades(episode: object, camera: str) -> list[int]:
    return [round(float(image.mean()) / 2) for image in episode.images[camera]]


def test_demonstration_is_sampled_on_the_control_grid(demonstration: BagBuilder, read: Read) -> None:
    (episode,), report = read(demonstration)
    assert len(episode) == 20
    assert episode.ticks[0] * 100_000_000 == episode.start_ns == START_NS
    assert shades(episode, "static") == shades(episode, "wrist") == [2 * tick for tick in range(20)]
    np.testing.assert_allclose(episode.proprioception[:, 0], 0.01 * np.arange(20), atol=1e-6)
    np.testing.assert_allclose(episode.proprioception[:, 1], 1.0)
    np.testing.assert_allclose(episode.actions, np.tile([0.1, 0, 0, 0, 0, -0.1, 1.0], (20, 1)), atol=1e-12)
    assert (episode.command, episode.task, episode.outcome) == ("pick up the red block", "pick_red", "success")
    assert episode.source == "bag#0"
    assert report.dropped == {}


@pytest.mark.parametrize("control_hz", [15.0, 29.97, 30.0])
def test_episodes_are_on_the_grid_of_any_rate(
    demonstration: BagBuilder, robot: Robot, spec: ObservationSpec, control_hz: float, tmp_path: Path
) -> None:
    timing = Timing(control_hz, 4, 8)
    ((episode,), report) = read_bag(demonstration.write(tmp_path / "bag"), robot, spec, timing)
    exact_ns = [round(int(tick) * 10**9 / timing.grid.rate_hz) for tick in episode.ticks]
    assert episode.start_ns == exact_ns[0]
    assert len(episode) == pytest.approx(2 * control_hz, abs=1) and report.dropped == {}
    newest = [(time_ns - START_NS) // (50 * MS) for time_ns in exact_ns]
    assert shades(episode, "static") == shades(episode, "wrist") == newest
    np.testing.assert_allclose(episode.actions, np.tile([0.1, 0, 0, 0, 0, -0.1, 1.0], (len(episode), 1)), atol=1e-7)


@pytest.mark.parametrize(("delay_ms", "shade"), [(20, 10), (21, 9)])
def test_an_image_received_after_the_settle_time_is_not_seen(
    demonstration: BagBuilder, read: Read, delay_ms: int, shade: int
) -> None:
    def late(topic: str, receive_ns: int) -> int:
        is_it = topic.startswith("/camera/static") and receive_ns == START_NS + 501 * MS
        return receive_ns + (delay_ms - 1) * MS if is_it else receive_ns

    demonstration.messages = [(late(topic, time_ns), topic, *rest) for time_ns, topic, *rest in demonstration.messages]
    (episode,), _ = read(demonstration)
    assert shades(episode, "static")[4:7] == [8, shade, 12]
    assert shades(episode, "wrist")[4:7] == [8, 10, 12]


def test_an_image_stamped_after_the_tick_is_not_seen_even_if_it_has_arrived(
    demonstration: BagBuilder, read: Read
) -> None:
    (episode,), _ = read(demonstration.image("static", 505, 200))
    assert shades(episode, "static")[5] == 10


@pytest.mark.parametrize("control_hz", [7.5, 10.0, 15.0, 29.97, 30.0])
def test_observations_are_those_of_a_live_buffer_bit_for_bit(
    demonstration: BagBuilder, robot: Robot, spec: ObservationSpec, timing: Timing, tmp_path: Path, control_hz: float
) -> None:
    """A clock runs through the messages as a live node gets them and takes a snapshot at each tick."""
    timing = dataclasses.replace(timing, control_hz=control_hz)
    rng = np.random.default_rng(0)
    demonstration.messages = [  # everything comes up to 40 ms late, so about half of it after the settle time
        (receive_ns + int(rng.integers(0, 40_000_000)), *rest) for receive_ns, *rest in demonstration.messages
    ]
    streams = {f"/{robot.stream(name).topic}": name for name in spec.streams}
    events = [(receive_ns, message, streams[topic]) for receive_ns, topic, _, message in demonstration.messages
              if topic in streams]  # fmt: skip
    first = min(receive_ns for receive_ns, *_ in demonstration.messages)
    grid, last = timing.grid, max(receive_ns for receive_ns, *_ in events)
    ticks = range(grid.first_from(first), grid.tick_at(last))
    events += [(grid.start_ns(tick) + timing.settle_ns + 0.5, None, tick) for tick in ticks]
    buffer = ObservationBuffer(spec, robot.observation)
    live = {}
    for time_ns, message, what in sorted(events, key=lambda event: event[0]):
        if message is None:
            live[what] = buffer.snapshot(grid.start_ns(what))
        else:
            stamp_ns = message_time_ns(message, robot.stream(what), time_ns)
            buffer.push(what, stamp_ns, observation_value(message, robot, what))

    with open_bag(demonstration.write(tmp_path / "bag")) as recording:
        recorded = dict(observations(recording, robot, spec, timing))
    seen = 0
    for tick in ticks:
        bag, node = recorded[tick], live[tick]
        assert type(bag) is type(node)
        if not isinstance(node, Observation):
            assert bag == node
            continue
        seen += 1
        assert (bag.time_ns, bag.stamps_ns, bag.command) == (node.time_ns, node.stamps_ns, node.command)
        assert bag.proprioception.tobytes() == node.proprioception.tobytes()
        assert all(bag.images[name].tobytes() == node.images[name].tobytes() for name in ("static", "wrist"))
    assert seen > 1.5 * control_hz


def test_failed_and_discarded_episodes_are_dropped_and_counted(bag: type[BagBuilder], read: Read) -> None:
    built = bag().say(-9).gripper(-8, 0.08).move(0, 4100)
    for number, event in enumerate(("success", "failure", "discard", "success")):
        built.mark(1000 * number - 1, "start", number).mark(1000 * number + 901, event, number)
    episodes, report = read(built)
    assert [(episode.source, len(episode), episode.outcome) for episode in episodes] == [
        ("bag#0", 9, "success"), ("bag#3", 9, "success"),
    ]  # fmt: skip
    assert dict(report.dropped) == {"episode failure": 9, "episode discarded": 9}


def test_failures_are_included_on_request(bag: type[BagBuilder], read: Read) -> None:
    built = bag().say(-9).gripper(-8, 0.08).move(0, 1100).mark(-1, "start").mark(1000.5, "failure")
    with pytest.raises(BagError, match=r"no usable episode in the bag .*; dropped: episode failure: 10 frames"):
        read(built)
    (episode,), _ = read(built, "again", include_failures=True)
    assert episode.outcome == "failure"


def test_a_silent_camera_splits_the_episode_into_two_with_one_source(demonstration: BagBuilder, read: Read) -> None:
    demonstration.messages = [
        entry for entry in demonstration.messages
        if not (entry[1].startswith("/camera/static") and 810 * MS < entry[0] - START_NS < 1390 * MS)
    ]  # fmt: skip
    episodes, report = read(demonstration)
    first = episodes[0].ticks[0]
    assert [(episode.ticks - first).tolist() for episode in episodes] == [list(range(10)), list(range(14, 20))]
    assert {episode.source for episode in episodes} == {"bag#0"}
    assert dict(report.dropped) == {"static: too far behind the other camera": 2, "static: too old": 2}


def test_a_change_of_the_command_splits_the_episode(demonstration: BagBuilder, read: Read) -> None:
    episodes, _ = read(demonstration.say(1000, "open the drawer"))
    assert [(episode.command, len(episode)) for episode in episodes] == [
        ("pick up the red block", 10), ("open the drawer", 10),
    ]  # fmt: skip


def test_frames_before_the_first_twist_of_an_episode_are_left_out(bag: type[BagBuilder], read: Read) -> None:
    built = bag().say(-9).gripper(-8, 0.08).move(0, 2050).without("demonstrated_twist").mark(-10, "start")
    built.twist(-50, 0.3)  # of an earlier episode
    built.twist(700, 0.1).mark(1500.5, "success")
    (episode,), report = read(built)
    assert len(episode) == 8
    assert dict(report.dropped) == {"before the first twist command": 7}
    np.testing.assert_allclose(episode.actions[:4, 0], [0.1, 0.1, 0.0, 0.0], atol=1e-12)


def test_gripper_label_is_the_target_at_the_middle_of_the_period(demonstration: BagBuilder, read: Read) -> None:
    (episode,), _ = read(demonstration.gripper(549, 0.02).gripper(651, 0.0))
    np.testing.assert_allclose(episode.actions[4:8, 6], [1.0, 0.25, 0.25, 0.0])


def test_before_its_first_command_the_gripper_label_is_its_measured_opening(
    demonstration: BagBuilder, read: Read
) -> None:
    demonstration.without("gripper_command").gripper(1000, 0.0)
    (episode,), report = read(demonstration)
    np.testing.assert_allclose(episode.actions[:, 6], [1.0] * 10 + [0.0] * 10)
    assert report.dropped == {}


def test_actions_are_the_intended_twists_not_the_executed_ones(demonstration: BagBuilder, read: Read) -> None:
    for stamp_ms in range(0, 2000, 100):
        demonstration.twist(stamp_ms, -0.4, topic="twist_command")
    (episode,), _ = read(demonstration)
    np.testing.assert_allclose(episode.actions[:, 0], 0.1, atol=1e-12)


def test_recording_without_markers_is_cut_at_its_commands(demonstration: BagBuilder, read: Read) -> None:
    episodes, _ = read(demonstration.without("episode").say(1000, "").say(1200, "open the drawer"))
    assert [(episode.command, episode.task, episode.outcome) for episode in episodes] == [
        ("pick up the red block", "pick up the red block", "unknown"),
        ("open the drawer", "open the drawer", "unknown"),
    ]


def test_hours_of_silence_between_episodes_are_skipped(
    demonstration: BagBuilder, bag: type[BagBuilder], read: Read
) -> None:
    hours = bag().move(0, 1050).say(-9).mark(-10, "start", 1).mark(1000.5, "success", 1)
    ten_years_ns = 10 * 365 * 86_400 * 10**9
    later = [(receive_ns + ten_years_ns, topic, kind, message) for receive_ns, topic, kind, message in hours.messages]
    for _, topic, _, message in later:
        if topic not in ("/episode", "/language_command"):
            message.header.stamp.sec += ten_years_ns // 10**9
    demonstration.messages += later
    episodes, _ = read(demonstration)
    assert [len(episode) for episode in episodes] == [20, 10]


def test_an_error_lists_all_missing_topics_and_the_bag_s_topics(demonstration: BagBuilder, read: Read) -> None:
    with pytest.raises(BagError) as raised:
        read(demonstration.without("camera/wrist/image_raw/compressed").without("ee_pose"))
    text = str(raised.value)
    assert "wrist: topic 'camera/wrist/image_raw/compressed' is missing" in text
    assert "ee_pose: topic 'ee_pose' is missing" in text
    assert "/camera/static/image_raw/compressed (sensor_msgs/msg/CompressedImage)" in text


def test_topic_of_another_type_is_refused(demonstration: BagBuilder, read: Read) -> None:
    demonstration.without("demonstrated_twist").add("demonstrated_twist", "std_msgs/msg/String", 0, data="fast")
    with pytest.raises(BagError, match=r"has the type std_msgs/msg/String, not geometry_msgs/msg/TwistStamped"):
        read(demonstration)


def without_positions(built: BagBuilder, stamp_ms: int) -> BagBuilder:
    """A joint state of a driver that publishes velocities only."""
    built.joints(stamp_ms)
    built.messages[-1][3].position = np.zeros(0)
    return built


@pytest.mark.parametrize(
    "spoil",
    [
        lambda message: setattr(message.pose.position, "x", np.nan),
        lambda message: setattr(message.pose.orientation, "x", 0.0),  # a quaternion of zeros
    ],
)
def test_an_invalid_pose_costs_its_frame_not_the_bag(
    demonstration: BagBuilder, robot: Robot, timing: Timing, tmp_path: Path, spoil: Callable
) -> None:
    for receive_ns, topic, _, message in demonstration.messages:
        if topic == "/ee_pose" and receive_ns == START_NS + 1001 * MS:
            spoil(message)
    spec = ObservationSpec((Camera("static", 8, 8), Camera("wrist", 8, 8)), ("ee_x", "ee_r0", "gripper_opening"))
    episodes, report = read_bag(demonstration.write(tmp_path / "bag"), robot, spec, timing)
    assert [len(episode) for episode in episodes] == [10, 9]
    ((why, count),) = report.dropped.items()
    assert why.startswith("ee_pose: ") and count == 1


def test_a_compressed_mosaic_is_the_same_colour_in_every_message_of_a_bag(
    demonstration: BagBuilder, read: Read
) -> None:
    mosaic = cv2.imencode(".png", np.tile(np.array([[200, 60], [60, 30]], np.uint8), (8, 8)))[1].ravel()
    for _, topic, _, message in demonstration.messages:
        if topic.startswith("/camera/static"):
            message.format, message.data = "bayer_rggb8; png compressed ", mosaic
    (episode,), _ = read(demonstration)
    assert (episode.images["static"] == (200, 60, 30)).all()


def test_undecodable_images_are_counted_by_reason_whatever_numbers_it_contains(
    demonstration: BagBuilder, read: Read
) -> None:
    for receive_ns, topic, _, message in demonstration.messages:
        tick = (receive_ns - START_NS) // (100 * MS)
        if topic.startswith("/camera/static") and tick >= 10:
            message.data = message.data[: 100 + tick]
    (one,), report = read(demonstration)
    ((why, count),) = report.dropped.items()
    assert why.startswith("camera 'static': 1") and (len(one), count) == (10, 10)


def test_a_gap_in_the_gripper_s_measurements_splits_the_episode(
    demonstration: BagBuilder, robot: Robot, timing: Timing, tmp_path: Path
) -> None:
    for receive_ns, topic, _, message in demonstration.without("gripper_command").gripper(9999, 0.0).messages:
        if topic == "/joint_states" and START_NS + 900 * MS < receive_ns < START_NS + 1150 * MS:
            message.position[:] = np.nan
    demonstration.mark(10_000, "start", 1)  # the only gripper command comes after the episode
    spec = ObservationSpec((Camera("static", 8, 8), Camera("wrist", 8, 8)), ("ee_x",))
    episodes, report = read_bag(demonstration.write(tmp_path / "bag"), robot, spec, timing)
    assert [len(episode) for episode in episodes] == [9, 8]
    assert dict(report.dropped)["no gripper command yet"] == 3
    assert all((episode.actions[:, 6] == 1).all() for episode in episodes)
    with pytest.raises(BagError, match=r"bag \S+/other, /joint_states: .*positions"):
        read_bag(without_positions(demonstration, 500).write(tmp_path / "other"), robot, spec, timing)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda built: built.twist(500, 0.1, frame="tool0"), "frame 'tool0'.* base_frame 'base_link'"),
        (lambda built: built.twist(500, np.nan), "not finite"),
        (lambda built: built.gripper(500, np.inf), r"/gripper_command: .*one finite number"),
        (lambda built: built.add("episode", "std_msgs/msg/String", 5, data="go"), r"bag \S+/bag: .*'go' is not JSON"),
        (lambda built: without_positions(built, 500), r"bag \S+/bag, /joint_states: .*positions"),
    ],
)
def test_invalid_values_are_rejected_naming_their_topic(
    demonstration: BagBuilder, read: Read, spoil: Callable, said: str
) -> None:
    with pytest.raises(BagError, match=said):
        read(spoil(demonstration))


def test_a_recording_with_two_clocks_is_diagnosed(demonstration: BagBuilder, read: Read) -> None:
    hour_ns = 3600 * 10**9
    demonstration.messages = [(receive_ns + hour_ns, *rest) for receive_ns, *rest in demonstration.messages]
    with pytest.raises(BagError, match=r"Messages were received 3600 s after their stamps.*--use-sim-time"):
        read(demonstration)


def test_recording_without_markers_and_commands_says_what_it_lacks(demonstration: BagBuilder, read: Read) -> None:
    with pytest.raises(BagError, match="neither episode markers nor a language command"):
        read(demonstration.without("episode").without("language_command").say(5, ""))


def test_an_empty_bag_is_an_error(bag: type[BagBuilder], read: Read) -> None:
    with pytest.raises(BagError, match="is empty: no message was recorded"):
        read(bag())


@pytest.mark.parametrize("name", ["mcap_zstd_fast", "sqlite3_zstd_message"])
def test_bags_of_ros2_bag_record_are_read(name: str, spec: ObservationSpec, timing: Timing, tmp_path: Path) -> None:
    """MCAP with zstd chunks and sqlite3 with zstd messages; raw and compressed images."""
    data = Path(__file__).parents[2] / "data"
    shutil.copytree(data / "bags" / name, tmp_path / name)
    robot = load_robot(data / "robots" / "fixture.yaml")
    episodes, _ = read_bag(tmp_path / name, robot, spec, timing)
    assert [episode.command for episode in episodes] == ["pick up the red block", "push the blue block left"]
    assert sum(map(len, episodes)) >= 75
    assert {episode.outcome for episode in episodes} == {"unknown"}
    # The publisher drives in a circle at 0.1 m/s.
    speeds = np.linalg.norm(np.concatenate([episode.actions[:, :2] for episode in episodes]), axis=1)
    np.testing.assert_allclose(speeds, 0.1, atol=0.005)


def test_observations_at_selected_ticks_equal_those_at_all_ticks(
    demonstration: BagBuilder, robot: Robot, spec: ObservationSpec, timing: Timing, tmp_path: Path
) -> None:
    """Late, repeated and damaged messages, joint states of another publisher, and a silence."""
    rng = np.random.default_rng(1)
    built = demonstration.joints(333, 0.05).joints(333, 0.06).pose(512.5, late_ms=90).move(14_000, 15_000)
    built.messages = [(receive_ns + int(rng.integers(0, 60_000_000)), *rest) for receive_ns, *rest in built.messages]
    nothing = np.zeros(0)
    other = {"name": ["a", "b"], "position": np.zeros(2), "velocity": nothing, "effort": nothing}
    stamp = next(message.header for _, topic, _, message in built.messages if topic == "/joint_states")
    for ms in range(5, 2000, 50):
        built.add("joint_states", "sensor_msgs/msg/JointState", ms, header=stamp, **other)
    bag = built.write(tmp_path / "bag")
    with open_bag(bag) as recording:
        everything = list(observations(recording, robot, spec, timing))
    ticks = np.array([tick for tick, _ in everything if rng.random() < 0.4])
    assert 5 < len(ticks) < len(everything)
    with open_bag(bag) as recording:
        some = list(observations(recording, robot, spec, timing, ticks=ticks))
    assert [tick for tick, _ in some] == [tick for tick, _ in everything]
    for (tick, seen), (_, expected) in zip(some, everything, strict=True):
        if tick not in ticks:
            assert seen is None
        elif isinstance(expected, Observation):
            assert isinstance(seen, Observation) and seen.stamps_ns == expected.stamps_ns
            assert seen.proprioception.tobytes() == expected.proprioception.tobytes()
            assert all(seen.images[name].tobytes() == picture.tobytes() for name, picture in expected.images.items())
        else:
            assert seen == expected


@pytest.mark.parametrize("asked", [[0], [0, 125]])
def test_gaps_between_selected_ticks_are_not_silence(
    bag: type[BagBuilder], robot: Robot, spec: ObservationSpec, timing: Timing, tmp_path: Path, asked: list[int]
) -> None:
    built = bag().say(-9).image("static", -40, 0).image("wrist", -40, 0).pose(-20).joints(-20).move(0, 13_000)
    ticks = np.array(asked) + timing.grid.tick_at(START_NS)
    with open_bag(built.write(tmp_path / "bag")) as recording:
        everything = [tick for tick, _ in observations(recording, robot, spec, timing)]
    with open_bag(tmp_path / "bag") as recording:
        found = dict(observations(recording, robot, spec, timing, ticks=ticks))
    assert list(found) == everything and len(found) == 130
    assert [tick for tick, seen in found.items() if isinstance(seen, Observation)] == ticks.tolist()


def test_a_damaged_time_years_away_costs_no_memory(demonstration: BagBuilder, read: Read) -> None:
    ends = next(n for n, (_, topic, _, message) in enumerate(demonstration.messages)
                if topic == "/episode" and "success" in message.data)  # fmt: skip
    demonstration.messages[ends] = (START_NS + 10**18, *demonstration.messages[ends][1:])
    tracemalloc.start()
    (episode,), _ = read(demonstration)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(episode) >= 20 and peak < 1 << 28


def test_an_image_frozen_since_before_the_selected_ticks_is_detected(
    demonstration: BagBuilder, robot: Robot, spec: ObservationSpec, timing: Timing, tmp_path: Path
) -> None:
    wary = dataclasses.replace(robot, observation=dataclasses.replace(robot.observation, frozen_s=0.5))
    still = next(message for _, topic, _, message in demonstration.messages if topic.startswith("/camera/wrist"))
    for _, topic, _, message in demonstration.messages:
        if topic.startswith("/camera/wrist"):
            message.data = still.data
    tick = timing.grid.tick_at(START_NS) + 12
    with open_bag(demonstration.write(tmp_path / "bag")) as recording:
        refused = dict(observations(recording, wary, spec, timing, ticks=np.array([tick])))[tick]
    assert isinstance(refused, Refusal) and (refused.reason, refused.stream) == ("frozen", "wrist")


def test_images_that_no_tick_uses_are_not_decoded(
    demonstration: BagBuilder, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    decode = images.decode_image_file
    monkeypatch.setattr(images, "decode_image_file", lambda data: decoded.append(len(data)) or decode(data))
    (episode,), _ = read(demonstration)
    pictures = sum("/camera/" in topic for _, topic, *_ in demonstration.messages)
    assert len(decoded) == 2 * len(episode) < pictures


@pytest.mark.parametrize(("offset_ms", "said"), [(7_200_000, "7200 s after"), (-60_000, "60 s before")])
def test_a_camera_of_another_clock_is_named_with_its_key(
    bag: Callable[[], BagBuilder], robot: Robot, spec: ObservationSpec, timing: Timing, tmp_path: Path, offset_ms: int,
    said: str,
) -> None:  # fmt: skip
    built = bag().say(-9).gripper(-8, 0.08).move(0, 1000)
    built.messages = [one for one in built.messages if "static" not in one[1]]
    for time_ms in range(0, 1000, 50):
        built.image("static", time_ms + offset_ms, 9, late_ms=-offset_ms)
    with pytest.raises(BagError, match=rf"static: .*stamps are {said} receipt.*set cameras.static.stamp: receive"):
        read_bag(built.write(tmp_path / "bag"), robot, spec, timing)
