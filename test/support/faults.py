# SPDX-License-Identifier: Apache-2.0
"""Faults that are injected while the policy moves the arm, and how long it goes on moving. All of it over real DDS.

`FAULTS` happen to one policy and its guard, which survive them; those of node_faults.py and system_faults.py need nodes
of their own.
"""

from __future__ import annotations

import array
import dataclasses
import os
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

import spoilt_messages as spoil
from policy_bench import CONTROL_HZ, FakeRobot, waited_s

PERIOD_S = 1 / CONTROL_HZ
MAX_AGE_S, MAX_SKEW_S, FROZEN_S = 0.2, 0.15, 0.3
OBSERVATION = {"max_age_s": MAX_AGE_S, "max_skew_s": MAX_SKEW_S, "frozen_s": FROZEN_S}
CHUNK = 8
SPEED = 0.05
# Two control periods after what stops the arm could be known.
COMMAND_S = 2 * PERIOD_S
SENSOR_S = MAX_AGE_S + 2 * PERIOD_S
# A model that computes is not interrupted: the arm does what was planned, and no more.
CHUNK_S = CHUNK * PERIOD_S + PERIOD_S
# A picture that stays the same shows with the next two of 30 Hz.
FROZEN_PICTURE_S = FROZEN_S + 2 / 30 + COMMAND_S
# A measurement in which the processes have waited longer than this for a core is one of the machine, and made again.
WAITED_S = 0.1
ATTEMPTS = 2
COMMAND, LOSSY = "COMMAND_QOS", "SENSOR_QOS"


@dataclasses.dataclass(frozen=True)
class Fault:
    """`reasons`: one of them is why the arm stops; none: it does not stop. `bound_s`: how long it may go on moving.

    `resets`: a person has to reset the guard, and arm it again, before the arm moves.
    """

    name: str
    inject: Callable[[FakeRobot], Any]
    reasons: tuple[str, ...]
    bound_s: float = SENSOR_S
    heal: Callable[[FakeRobot], Any] = lambda robot: None
    resets: bool = False


class MovedWrongly(Exception):
    """The arm moved while the fault that had stopped it was still there, or faster than its limits."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """`moved_s`: from the fault to the last twist that was not zero, as received; None: the arm went on, as it should.

    `attempt`: which one this was; the ones before were spoilt by a busy machine.
    """

    fault: str
    reason: str
    moved_s: float | None
    bound_s: float
    attempt: int = 1

    @property
    def held(self) -> bool:
        return self.moved_s is None or self.moved_s <= self.bound_s


def measure(robot: FakeRobot, fault: Fault, pids: Sequence[int]) -> Measurement:
    """See `_measure`; once more, and no more, where a busy machine has kept a process waiting: that is late, too.

    An arm that moves while it must not is a failure on any machine.

    Raises:
        AssertionError: as `_measure`.
        MovedWrongly: as `_measure`.
    """
    for attempt in range(1, ATTEMPTS + 1):
        before_s, failure, measured = waited_s(os.getpid(), *pids), None, None
        try:
            measured = dataclasses.replace(_measure(robot, fault), attempt=attempt)
        except AssertionError as error:
            failure = error
        spoilt = waited_s(os.getpid(), *pids) - before_s >= WAITED_S
        if measured is not None and (measured.held or attempt == ATTEMPTS or not spoilt):
            return measured
        if failure is not None and (attempt == ATTEMPTS or not spoilt):
            raise failure
    raise RuntimeError("the last attempt neither returned nor raised")


def _measure(robot: FakeRobot, fault: Fault) -> Measurement:
    """Move, inject, wait for the stop, see that nothing moves, heal, and see it move again on a new plan.

    Raises:
        AssertionError: the arm did not stop, or did not move again.
        MovedWrongly: it moved while it must not, or faster than it may.
    """
    robot.idle()
    robot.say(f"move {SPEED}")
    robot.wait_moving(SPEED)
    robot.twists.clear()
    robot.wait(lambda: len(robot.twists) >= 3, "a few twists")
    start_s = time.monotonic()
    fault.inject(robot)
    if not fault.reasons:
        _assert_goes_on(robot)
        robot.spoil.clear()
        fault.heal(robot)
        return Measurement(fault.name, "", None, fault.bound_s)
    reason = wait_stopped(robot, fault.reasons)
    moved_s = max([twist.received_s for twist in robot.twists if twist.linear_x], default=start_s) - start_s
    stopped = stays_stopped(robot)
    robot.spoil.clear()
    robot.silent.clear()
    fault.heal(robot)
    if fault.resets:
        robot.say(f"move {SPEED}")
        robot.wait(lambda: robot.states[-1]["command"] == f"move {SPEED}", "the command")
        robot.wait_value(lambda: robot.reset().success, "a reset")  # a release may arrive after the call
        stopped = stays_stopped(robot)  # a reset never moves the arm
        assert robot.arm(True).success
    robot.wait(lambda: any(twist.linear_x for twist in robot.twists[stopped:]), "moving again")
    return Measurement(fault.name, reason, max(0.0, moved_s), fault.bound_s)


def stays_stopped(robot: FakeRobot) -> int:
    """See that nothing moves for a few periods; returns how many twists there have been.

    Raises:
        MovedWrongly: something does.
    """
    count = len(robot.twists)
    time.sleep(3 * PERIOD_S)
    if any(twist.linear_x for twist in robot.twists[count:]):
        raise MovedWrongly("it moves again before the fault is over")
    return len(robot.twists)


def wait_stopped(robot: FakeRobot, reasons: tuple[str, ...]) -> str:
    """Until the arm rests for one of `reasons`; returns which."""

    def resting() -> bool:
        last = robot.states[-1] if robot.states else {}
        return last.get("state") in ("waiting", "fault", "disarmed") and stop_reason(last) in reasons

    robot.wait(resting, f"a stop for {' or '.join(reasons)}")
    return stop_reason(robot.states[-1])


def stop_reason(state: dict[str, str]) -> str:
    """Why the arm stands still; of one that the guard disarmed, why it did."""
    return state["reason"] if state["reason"] != "disarmed" else state["detail"].partition(":")[0]


def _assert_goes_on(robot: FakeRobot) -> None:
    count = len(robot.twists)
    robot.wait(lambda: len(robot.twists) >= count + 10, "ten more twists")
    speeds = {twist.linear_x for twist in robot.twists[count:]}
    if max(map(abs, speeds)) > 0.2:
        raise MovedWrongly(f"faster than the limit: {speeds}")
    assert 0.0 not in speeds, speeds


def _all_silent(robot: FakeRobot) -> None:
    robot.silent |= {"static", "wrist", "ee_pose", "joint_states"}


def _spoil(stream: str, make: Callable[[], Callable[[Any], Any]]) -> Callable[[FakeRobot], None]:
    return lambda robot: robot.spoil.__setitem__(stream, make())


def _offer(camera: str, qos: str) -> Callable[[FakeRobot], None]:
    """Let the camera publish with another QoS."""

    def inject(robot: FakeRobot) -> None:
        before = getattr(robot, camera)
        setattr(robot, camera, robot.node.create_publisher(before.msg_type, f"camera/{camera}", _qos(qos)))
        robot.destroy_publisher(before)

    return inject


def _qos(name: str) -> Any:
    from vla_ros.nodes.common import qos as message_types

    return getattr(message_types, name)


def _publish_lossily(topic: str, kind: str) -> Callable[[FakeRobot], None]:
    """One more publisher, best effort, whose messages cannot arrive."""
    return lambda robot: robot.extra.append(robot.node.create_publisher(robot.kind(kind), topic, _qos(LOSSY)))


def _publish_no_more(robot: FakeRobot) -> None:
    while robot.extra:
        robot.destroy_publisher(robot.extra.pop())


def _listen_latched(robot: FakeRobot) -> None:
    """A receiver that asks commands for what they do not offer; the node counts it."""
    before = int(robot.diagnosed("outputs", "subscribers with incompatible QoS") or 0)
    deaf = robot.node.create_subscription(robot.kind("twist"), "twist_command", lambda _: None, _qos("LATCHED_QOS"))

    def counted() -> bool:
        return int(robot.diagnosed("outputs", "subscribers with incompatible QoS") or 0) > before

    robot.wait(counted, "a count of it")
    robot.node.destroy_subscription(deaf)


def _silence(stream: str) -> Callable[[FakeRobot], None]:
    return lambda robot: robot.silent.add(stream)


def _camera(name: str) -> list[Fault]:
    undecodable = {
        "static": {
            "a corrupt JPEG": lambda: spoil.changed(data=array.array("B", b"\xff\xd8\xff\xe0 no picture")),
            "a JPEG cut short": lambda: lambda message: spoil.changed(data=message.data[:20])(message),
            "no bytes at all": lambda: spoil.changed(data=array.array("B")),
            "a depth image (compressedDepth)": lambda: spoil.changed(data=spoil.COMPRESSED_DEPTH),
        },
        "wrist": {
            "an unknown encoding": lambda: spoil.changed(encoding="yuv9"),
            "more rows than bytes": lambda: spoil.changed(height=480),
            "bytes cut short": lambda: spoil.truncated,
            "a depth image (16UC1)": lambda: spoil.changed(encoding="16UC1", width=8),
        },
    }[name]
    return [
        Fault(f"camera {name}: silent", _silence(name), ("stale",)),
        Fault(f"camera {name}: a repeated image", _spoil(name, spoil.frozen_picture), ("frozen",), FROZEN_PICTURE_S),
        Fault(f"camera {name}: the same stamp", _spoil(name, spoil.frozen_stamp), ("stale",)),
        Fault(f"camera {name}: delayed by 0.5 s", _spoil(name, lambda: spoil.shift(-0.5)), ("stale", "skewed")),
        Fault(f"camera {name}: 0.19 s behind the other", _spoil(name, lambda: spoil.shift(-0.19)), ("skewed", "stale")),
        Fault(f"camera {name}: stamps 1 s in the future", _spoil(name, lambda: spoil.shift(1.0)), ("stale", "missing")),
        Fault(f"camera {name}: out of order by one", _spoil(name, spoil.swapped), ()),
        # Scaled to the network's size, as the same picture in a bag is.
        Fault(f"camera {name}: another size", _spoil(name, lambda: spoil.larger), ()),
        Fault(f"camera {name}: published reliably", _offer(name, COMMAND), (), heal=_offer(name, LOSSY)),
        *(
            Fault(f"camera {name}: {what}", _spoil(name, make), ("undecodable",))
            for what, make in undecodable.items()
        ),
    ]  # fmt: skip


def _say(text: str) -> Callable[[FakeRobot], None]:
    return lambda robot: robot.say(text)


def _say_raw(data: bytes) -> Callable[[FakeRobot], None]:
    """A std_msgs/String of any bytes, as CDR."""
    return lambda robot: robot.language.publish(b"\0\1\0\0" + struct.pack("<I", len(data) + 1) + data + b"\0")


def _flood(robot: FakeRobot) -> None:
    for number in range(500):
        robot.say(f"move {SPEED} {number}")


def _refused(name: str, value: Any) -> Callable[[FakeRobot], None]:
    def inject(robot: FakeRobot) -> None:
        assert not robot.set_parameter(name, value).successful, f"{name} = {value} was accepted"

    return inject


def _press(robot: FakeRobot) -> None:
    robot.press(True)


def _release(robot: FakeRobot) -> None:
    robot.press(False)


STATES = [
    Fault("pose: silent", _silence("ee_pose"), ("stale", "no_ee_position")),
    Fault("pose: NaN", _spoil("ee_pose", lambda: spoil.pose(float("nan"))), ("invalid", "no_ee_position")),
    Fault("pose: in another frame", _spoil("ee_pose", lambda: spoil.pose(0.5, "tool0")), ("stale", "no_ee_position")),
    Fault("pose: stamps 1 s in the future", _spoil("ee_pose", lambda: spoil.shift(1.0)), ("stale", "no_ee_position")),
    Fault("pose: the same stamp", _spoil("ee_pose", spoil.frozen_stamp), ("stale", "no_ee_position")),
    Fault("joint states: silent", _silence("joint_states"), ("stale",)),
    Fault("joint states: without positions", _spoil("joint_states", lambda: spoil.changed(position=[])), ("stale",)),
    Fault(
        "joint states: without the gripper's joint",
        _spoil("joint_states", lambda: spoil.changed(name=["elbow", "wrist"])), ("stale",),
    ),
    Fault(
        "joint states: NaN", _spoil("joint_states", lambda: spoil.changed(position=[1.0, float("nan")])), ("invalid",),
    ),
    Fault("all sensors silent: the robot's computer is down", _all_silent, ("stale", "no_ee_position")),
]  # fmt: skip

MODEL = [
    Fault("model: NaN", _say("nan"), ("non_finite",), COMMAND_S, resets=True),
    Fault("model: infinity", _say("inf"), ("non_finite",), COMMAND_S, resets=True),
    Fault("model: ten times the speed limit", _say("move 2.0"), ()),
    Fault("model: an exception", _say("fail"), ("policy_error",), COMMAND_S, resets=True),
    Fault("model: out of memory", _say("memory"), ("policy_error",), COMMAND_S, resets=True),
    Fault("model: a chunk of the wrong shape", _say("shape"), ("policy_error",), COMMAND_S, resets=True),
    Fault("model: hangs for 2.5 s", _say("hang"), ("starved",), CHUNK_S, heal=_say(f"move {SPEED}")),
    Fault("model: slower than its chunk", _say("slow 0.6"), ("starved",), CHUNK_S, heal=_say(f"move {SPEED}")),
]

OPERATOR = [
    Fault("command: empty", _say(""), ("no_command",), COMMAND_S, heal=_say(f"move {SPEED}")),
    Fault("command: spaces only", _say("  \n "), ("no_command",), COMMAND_S, heal=_say(f"move {SPEED}")),
    Fault(
        "command: 100 kB of text", _say(f"move {SPEED} " + "x" * 100_000), ("no_command",), heal=_say(f"move {SPEED}")
    ),
    Fault("command: invalid UTF-8", _say_raw(f"move {SPEED} ".encode() + b"\xff\xfe\x80"), ()),
    Fault("command: 500 at once", _flood, ()),
    Fault("emergency stop", _press, ("emergency_stop",), COMMAND_S, heal=_release, resets=True),
    Fault("disarmed", lambda robot: robot.arm(False), ("disarmed",), COMMAND_S, heal=lambda robot: robot.arm(True)),
    Fault("parameter: speed_scale NaN", _refused("speed_scale", float("nan")), ()),
    Fault("parameter: speed_scale 2", _refused("speed_scale", 2.0), ()),
    Fault("parameter: speed_scale a string", _refused("speed_scale", "fast"), ()),
    Fault("parameter: another robot while armed", _refused("robot", "generic"), ()),
    Fault("parameter: use_sim_time while armed", _refused("use_sim_time", True), ()),
]

# Until a publisher is discovered, and the graph looked at, each 0.1 s.
DISCOVERED_S = 0.2 + COMMAND_S

QOS = [
    Fault(
        f"QoS: {what} is published best effort", _publish_lossily(topic, kind), (reason,), DISCOVERED_S,
        heal=_publish_no_more,
    )
    for what, topic, kind, reason in (
        ("a command", "language_command", "text", "command_unheard"),
        ("the emergency stop", "emergency_stop", "bool", "emergency_stop_unheard"),
        ("a takeover", "takeover_twist", "twist", "takeover_unheard"),
    )
]  # fmt: skip
QOS.append(Fault("QoS: a subscriber requests latched twists", _listen_latched, ()))

FAULTS = [*_camera("static"), *_camera("wrist"), *STATES, *MODEL, *OPERATOR, *QOS]
