# SPDX-License-Identifier: Apache-2.0
"""The pose of one frame in another from transforms of many, as they arrive: what tf2 knows, for one question only.

A transform says where a child frame is in its parent. Those of /tf hold at their stamp, those of /tf_static always
(REP-105 for the frames; geometry2's tf2/src/buffer_core.cpp for what counts as a transform). A robot publishes one for
each of its links, often all of them at one stamp; the tool's pose in the base frame is the product of those between.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from vla_ros.geometry import rigid
from vla_ros.geometry.rigid import Pose

# A link that is not known at a stamp lies between its neighbours, if these are no further apart than this.
INTERPOLATED_NS = 50_000_000
# How much of a link's past is kept for links that come later, and how many of its samples.
KEPT_NS = 1_000_000_000
KEPT_SAMPLES = 2000
# Of two parents of one frame that both were heard within this time, neither is believed.
DISPUTED_NS = 1_000_000_000
# tf2 takes quaternions whose squared length is so far from 1 (QUATERNION_NORMALIZATION_TOLERANCE).
QUATERNION_TOLERANCE = 0.01
_SHOWN_FRAMES = 40


class Transform(NamedTuple):
    """Where `child` is in `parent` at `stamp_ns`. Frames are compared without a leading slash."""

    stamp_ns: int
    parent: str
    child: str
    pose: Pose


@dataclasses.dataclass
class _Link:
    """A frame below its parent: samples in the order of their stamps; a static one has a single pose and no stamp."""

    parent: str
    static: bool
    stamps: list[int] = dataclasses.field(default_factory=list)
    poses: list[Pose] = dataclasses.field(default_factory=list)
    heard_ns: dict[str, int] = dataclasses.field(default_factory=dict)  # newest stamp under each parent
    disputed_ns: int | None = None

    def add(self, stamp_ns: int, pose: Pose) -> bool:
        """Insert a sample; False where the stamp is known already: who repeats a stamp repeats the sample."""
        index = bisect.bisect_left(self.stamps, stamp_ns)
        if index < len(self.stamps) and self.stamps[index] == stamp_ns:
            return False
        self.stamps.insert(index, stamp_ns)
        self.poses.insert(index, pose)
        over = _over(self.stamps, stamp_ns)
        if over > 0:
            del self.stamps[:over], self.poses[:over]
        return True

    def at(self, stamp_ns: int) -> Pose | None:
        """The pose at a stamp: static, a sample of that very stamp, or between two that are close enough; else None."""
        if self.static:
            return self.poses[0]
        right = bisect.bisect_left(self.stamps, stamp_ns)
        if right < len(self.stamps) and self.stamps[right] == stamp_ns:
            return self.poses[right]
        if not 0 < right < len(self.stamps):
            return None
        before_ns, after_ns = self.stamps[right - 1], self.stamps[right]
        if after_ns - before_ns > INTERPOLATED_NS:
            return None
        fraction = (stamp_ns - before_ns) / (after_ns - before_ns)
        return rigid.interpolate(self.poses[right - 1], self.poses[right], fraction)


class TransformTree:
    """Collects transforms and gives the pose of `tool` in `base` at each stamp at which all links between are known.

    The frames need not be above each other: up to the frame that both hang below, and down again. A frame has one
    parent. With another one it moves there, and its past is forgotten; while two publishers say different parents in
    turn, it has none. Not thread-safe.

    faults: what was not usable, in words, and how often.
    """

    def __init__(self, base: str, tool: str) -> None:
        self._base, self._tool = base.lstrip("/"), tool.lstrip("/")
        self._links: dict[str, _Link] = {}
        self.faults: Counter[str] = Counter()
        self.clear()

    def clear(self) -> None:
        """Forget what was at a time (the clock was set back); static transforms still hold."""
        self._links = {child: link for child, link in self._links.items() if link.static}
        # From the tool up to the common frame, and from the base up to it; None: not connected.
        self._chain: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        self._related: frozenset[str] = frozenset()
        self._moving: tuple[_Link, ...] = ()
        self._waiting: list[int] = []  # stamps at which one of the chain's links is known and another is not yet
        self._given: list[int] = []

    def wants(self, child: str) -> bool:
        """Whether a transform of `child` may matter; of a robot's many frames most do not, once the chain is known."""
        return self._chain is None or child.lstrip("/") in self._related

    def prime(self, transforms: Iterable[Transform]) -> None:
        """Take static transforms of frames that are not known yet: what was latched before a recording began."""
        self.add([one for one in transforms if one.child.lstrip("/") not in self._links], static=True)

    def add(self, transforms: Iterable[Transform], static: bool = False) -> list[tuple[int, Pose]]:
        """Take the transforms of one message; return (stamp, pose) of what is known from now on, by stamp."""
        moved = self._chain is None
        stamps: set[int] = set()
        for one in transforms:
            one = one._replace(parent=one.parent.lstrip("/"), child=one.child.lstrip("/"))
            fault = _fault(one)
            if fault:
                self.faults[fault] += 1
                continue
            one = one._replace(pose=_normalised(one.pose))
            new_parent = self._add_static(one) if static else self._add_moving(one, stamps)
            moved = moved or (new_parent and one.child in self._related)
        if moved:
            self._connect()
        elif self._chain is not None:
            for stamp_ns in stamps:
                self._wait(stamp_ns)
        return self._known(None if moved else stamps)

    @property
    def problem(self) -> str | None:
        """Why no pose is known, naming what is missing; None where one is."""
        if self._chain is None:
            return f"there is no chain of transforms from {self._base!r} to {self._tool!r}: {self._missing()}"
        if self._given:
            return None
        between = f"between {self._base!r} and {self._tool!r}"
        if not self._moving:
            return f"all transforms {between} are static, so they say of no time; name a frame that moves"
        rare = min(self._moving, key=lambda link: len(link.stamps))
        child = next(name for name, link in self._links.items() if link is rare)
        return (
            f"the transforms {between} are never known at one time: that of {child!r} in {rare.parent!r} is not known "
            f"within {INTERPOLATED_NS / 1e6:.0f} ms of the others' stamps"
        )

    def _add_static(self, one: Transform) -> bool:
        """Take a static transform; returns whether the frame's place among the others is new."""
        link = self._links.get(one.child)
        if link is not None and not link.static:
            self.faults[f"{one.child!r} is in /tf and in /tf_static: what came last counted"] += 1
        elif link is not None and link.parent != one.parent:
            self.faults[f"{one.child!r} moved from {link.parent!r} to {one.parent!r}, both static"] += 1
        self._links[one.child] = _Link(one.parent, True, [0], [one.pose])
        return link is None or not link.static or link.parent != one.parent

    def _add_moving(self, one: Transform, stamps: set[int]) -> bool:
        """Take a transform of a time, and its stamp where it is news; returns whether the frame's place is new."""
        link = self._links.get(one.child)
        if link is None or link.static:
            if link is not None:
                self.faults[f"{one.child!r} is in /tf and in /tf_static: what came last counted"] += 1
            new = self._links[one.child] = _Link(one.parent, False, heard_ns={one.parent: one.stamp_ns})
            new.add(one.stamp_ns, one.pose)
            stamps.add(one.stamp_ns)
            return True
        if one.parent != link.parent:
            return self._move(link, one, stamps)
        link.heard_ns[one.parent] = max(one.stamp_ns, link.heard_ns[one.parent])
        if link.disputed_ns is not None and abs(one.stamp_ns - link.disputed_ns) <= DISPUTED_NS:
            return False
        if link.add(one.stamp_ns, one.pose):
            stamps.add(one.stamp_ns)
        return False

    def _move(self, link: _Link, one: Transform, stamps: set[int]) -> bool:
        """A frame under another parent: it moved there, or two publishers disagree."""
        newest_ns, heard_ns = link.heard_ns[link.parent], link.heard_ns.get(one.parent)
        if one.stamp_ns < newest_ns:
            return False  # from before it was where it is
        link.heard_ns[one.parent] = one.stamp_ns
        both_now = one.stamp_ns == newest_ns
        in_turn = heard_ns is not None and one.stamp_ns - min(heard_ns, newest_ns) <= DISPUTED_NS
        if both_now or in_turn:
            first, second = sorted((one.parent, link.parent))
            self.faults[f"{one.child!r} has two parents in turn, {first!r} and {second!r}: neither counted"] += 1
            link.disputed_ns = one.stamp_ns
            link.stamps.clear()
            link.poses.clear()
            return False
        self.faults[f"{one.child!r} moved from {link.parent!r} to {one.parent!r}"] += 1
        moved = self._links[one.child] = _Link(one.parent, False, heard_ns=link.heard_ns)
        moved.add(one.stamp_ns, one.pose)
        stamps.add(one.stamp_ns)
        return True

    def _connect(self) -> None:
        """Find the links between tool and base, and what is waiting on them."""
        above_tool, above_base = self._path(self._tool), self._path(self._base)
        common = next((frame for frame in above_tool if frame in above_base), None)
        if common is None:
            self._chain, self._related, self._moving = None, frozenset(), ()
            return
        up = above_tool[: above_tool.index(common)]
        down = above_base[: above_base.index(common)]
        self._chain = tuple(up), tuple(down)
        self._related = frozenset((*up, *down))
        self._moving = tuple(self._links[child] for child in (*up, *down) if not self._links[child].static)
        # What no longer matters; a frame that comes back begins anew.
        self._links = {child: link for child, link in self._links.items() if link.static or child in self._related}
        self._waiting = []
        for stamp_ns in sorted({stamp_ns for link in self._moving for stamp_ns in link.stamps}):
            self._wait(stamp_ns)

    def _path(self, frame: str) -> list[str]:
        """The frame and those above it, up to the root, or once around a loop."""
        path = [frame]
        while (link := self._links.get(path[-1])) is not None and link.parent not in path:
            path.append(link.parent)
        return path

    def _wait(self, stamp_ns: int) -> None:
        if not _contains(self._given, stamp_ns):
            _insert(self._waiting, stamp_ns)

    def _known(self, news: set[int] | None) -> list[tuple[int, Pose]]:
        """The waiting stamps at which all links are known by now, looking around those of `news` only, None for all."""
        found: list[tuple[int, Pose]] = []
        if self._chain is None or not all(link.stamps for link in self._moving):
            return found
        candidates = self._waiting
        if news is not None:
            near: set[int] = set()
            for stamp_ns in news:
                first = bisect.bisect_left(self._waiting, stamp_ns - INTERPOLATED_NS)
                near.update(self._waiting[first : bisect.bisect_right(self._waiting, stamp_ns + INTERPOLATED_NS)])
            candidates = sorted(near)
        for stamp_ns in list(candidates):
            pose = self._pose(stamp_ns)
            if pose is not None:
                del self._waiting[bisect.bisect_left(self._waiting, stamp_ns)]
                _insert(self._given, stamp_ns)
                found.append((stamp_ns, pose))
        return found

    def _pose(self, stamp_ns: int) -> Pose | None:
        assert self._chain is not None
        ends = []  # of tool and base below the frame that they share
        for children in self._chain:
            pose = rigid.IDENTITY
            for child in children:  # the lowest first
                link = self._links[child].at(stamp_ns)
                if link is None:
                    return None
                pose = rigid.compose(link, pose)
            ends.append(pose)
        tool, base = ends
        return rigid.compose(rigid.inverse(base), tool) if self._chain[1] else tool

    def _missing(self) -> str:
        frames = sorted({*self._links, *(link.parent for link in self._links.values())})
        shown = ", ".join(frames[:_SHOWN_FRAMES]) + (", ..." if len(frames) > _SHOWN_FRAMES else "")
        there_are = f"; frames that there are: {shown or 'none'}"
        unknown = [frame for frame in (self._base, self._tool) if frame not in frames]
        if unknown:
            return f"no transform names {' or '.join(map(repr, unknown))}{there_are}"
        for frame in (self._tool, self._base):
            path = self._path(frame)
            if path[-1] in self._links:
                loop = path[path.index(self._links[path[-1]].parent) :]
                return f"{' -> '.join([*loop, loop[0]])} is a loop of parents{there_are}"
        tool, base = self._path(self._tool)[-1], self._path(self._base)[-1]
        return (
            f"the link above {tool!r} is missing, to which {self._tool!r} leads up; {self._base!r} leads up to "
            f"{base!r}{there_are}"
        )


def _fault(one: Transform) -> str:
    """What is wrong with a transform by itself, as tf2 sees it; empty: nothing."""
    if not one.child or not one.parent:
        return f"a transform without a name ({one.child!r} in {one.parent!r})"
    if one.child == one.parent:
        return f"{one.child!r} in itself"
    if not all(map(math.isfinite, one.pose)):
        return f"{one.child!r} in {one.parent!r}: not finite"
    if abs(sum(part * part for part in one.pose[3:]) - 1.0) > QUATERNION_TOLERANCE:
        return f"{one.child!r} in {one.parent!r}: its quaternion is no rotation (its length is not 1)"
    return ""


def _normalised(pose: Pose) -> Pose:
    x, y, z, qx, qy, qz, qw = pose
    length = math.sqrt(qx * qx + qy * qy + qz * qz + qw * qw)
    return (x, y, z, qx / length, qy / length, qz / length, qw / length)


def _contains(stamps: list[int], stamp_ns: int) -> bool:
    index = bisect.bisect_left(stamps, stamp_ns)
    return index < len(stamps) and stamps[index] == stamp_ns


def _insert(stamps: list[int], stamp_ns: int) -> None:
    if not _contains(stamps, stamp_ns):
        bisect.insort(stamps, stamp_ns)
        del stamps[: max(_over(stamps, stamp_ns), 0)]


def _over(stamps: list[int], stamp_ns: int) -> int:
    """How many of the oldest of ascending `stamps` are to be forgotten once `stamp_ns` is known."""
    return max(bisect.bisect_left(stamps, stamp_ns - KEPT_NS), len(stamps) - KEPT_SAMPLES)
