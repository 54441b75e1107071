# SPDX-License-Identifier: Apache-2.0
"""The pose of one frame in another, assembled from single transforms as they arrive: tf2's lookup for one pair only.

A transform gives the pose of a child frame in its parent: at its stamp on /tf, always on /tf_static (REP-105 defines
the frames; geometry2's tf2/src/buffer_core.cpp which transforms are valid). A robot publishes one for each of its
links, often all with the same stamp; the tool's pose in the base frame is the product of those along the chain.
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

# A link's pose is interpolated between two samples that are at most this far apart.
INTERPOLATED_NS = 50_000_000
# Each link keeps this much of its past, in time and in samples, for links whose transforms arrive later.
KEPT_NS = 1_000_000_000
KEPT_SAMPLES = 2000
# A frame that is published under two parents within this time has no pose.
DISPUTED_NS = 1_000_000_000
# tf2 rejects quaternions whose squared length is further from 1 (QUATERNION_NORMALIZATION_TOLERANCE).
QUATERNION_TOLERANCE = 0.01
_SHOWN_FRAMES = 40


class Transform(NamedTuple):
    """The pose of `child` in `parent` at `stamp_ns`. A leading slash of a frame is ignored."""

    stamp_ns: int
    parent: str
    child: str
    pose: Pose


@dataclasses.dataclass
class _Link:
    """A frame below its parent, with samples ordered by stamp; a static one has a single pose."""

    parent: str
    static: bool
    stamps: list[int] = dataclasses.field(default_factory=list)
    poses: list[Pose] = dataclasses.field(default_factory=list)
    heard_ns: dict[str, int] = dataclasses.field(default_factory=dict)  # newest stamp under each parent
    disputed_ns: int | None = None  # when two parents were last published in turn

    def add(self, stamp_ns: int, pose: Pose) -> bool:
        """Insert a sample; return False if its stamp is known: a repeated stamp means a repeated sample."""
        index = bisect.bisect_left(self.stamps, stamp_ns)
        if index < len(self.stamps) and self.stamps[index] == stamp_ns:
            return False
        self.stamps.insert(index, stamp_ns)
        self.poses.insert(index, pose)
        if (expired := _expired(self.stamps, stamp_ns)) > 0:
            del self.stamps[:expired], self.poses[:expired]
        return True

    def at(self, stamp_ns: int) -> Pose | None:
        """Return the pose at a stamp: static, sampled, or interpolated between close neighbours; else None."""
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
    """Collects transforms and yields the pose of `tool` in `base` at each stamp at which the whole chain is known.

    The chain may lead up to a common ancestor and down again. A frame has one parent: if it appears under another one,
    it moves there and its past is dropped; while two publishers disagree about its parent, it has no pose. Not
    thread-safe.

    Attributes:
        faults: Invalid input, described in words, and how often it occurred.
    """

    def __init__(self, base: str, tool: str) -> None:
        self._base, self._tool = base.lstrip("/"), tool.lstrip("/")
        self._links: dict[str, _Link] = {}
        self.faults: Counter[str] = Counter()
        self.clear()

    def clear(self) -> None:
        """Forget all stamped transforms, as after a clock reset; static ones remain."""
        self._links = {child: link for child, link in self._links.items() if link.static}
        # Frames from the tool, and from the base, up to their common ancestor; None while they are not connected.
        self._chain: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        self._related: frozenset[str] = frozenset()
        self._moving: tuple[_Link, ...] = ()
        self._waiting: list[int] = []  # stamps at which part of the chain is known
        self._given: list[int] = []

    def wants(self, child: str) -> bool:
        """Return whether a transform of `child` may matter; most of a robot's do not once the chain is known."""
        return self._chain is None or child.lstrip("/") in self._related

    def prime(self, transforms: Iterable[Transform]) -> None:
        """Add static transforms of frames that are still unknown: those latched before a recording began."""
        self.add([one for one in transforms if one.child.lstrip("/") not in self._links], static=True)

    def add(self, transforms: Iterable[Transform], static: bool = False) -> list[tuple[int, Pose]]:
        """Add the transforms of one message; return the (stamp, pose) pairs it completes, ordered by stamp."""
        moved = self._chain is None
        stamps: set[int] = set()
        for one in transforms:
            one = one._replace(parent=one.parent.lstrip("/"), child=one.child.lstrip("/"))
            if fault := _fault(one):
                self.faults[fault] += 1
                continue
            one = one._replace(pose=rigid.normalize(one.pose))
            link = self._links.get(one.child)
            if link is not None and link.static != static:
                self.faults[f"{one.child!r} is in both /tf and /tf_static: the last one received was used"] += 1
            new_parent = self._add_static(one, link) if static else self._add_moving(one, link, stamps)
            moved = moved or (new_parent and one.child in self._related)
        if moved:
            self._connect()
        elif self._chain is not None:
            self._wait(stamps)
        return self._completed(None if moved else stamps)

    @property
    def problem(self) -> str | None:
        """Why no pose is known yet, naming what is missing; None once one is."""
        if self._chain is None:
            return f"no chain of transforms leads from {self._base!r} to {self._tool!r}: {self._missing()}"
        if self._given:
            return None
        between = f"between {self._base!r} and {self._tool!r}"
        if not self._moving:
            return f"all transforms {between} are static and so carry no time; name a frame that moves"
        rare = min(self._moving, key=lambda link: len(link.stamps))
        child = next(name for name, link in self._links.items() if link is rare)
        return (
            f"the transforms {between} are never known at the same time: {child!r} in {rare.parent!r} has no sample "
            f"within {INTERPOLATED_NS / 1e6:.0f} ms of the others' stamps"
        )

    def _add_static(self, one: Transform, link: _Link | None) -> bool:
        """Add a static transform; return whether its frame has a new place in the tree."""
        self._links[one.child] = _Link(one.parent, True, [0], [one.pose])
        if link is None or not link.static:
            return True
        if link.parent != one.parent:
            self.faults[f"{one.child!r} moved from {link.parent!r} to {one.parent!r}, both static"] += 1
        return link.parent != one.parent

    def _add_moving(self, one: Transform, link: _Link | None, stamps: set[int]) -> bool:
        """Add a stamped transform, and its stamp to `stamps` if new; return whether its frame has a new place."""
        if link is None or link.static:
            return self._place(one, {one.parent: one.stamp_ns}, stamps)
        if one.parent != link.parent:
            return self._move(link, one, stamps)
        link.heard_ns[one.parent] = max(one.stamp_ns, link.heard_ns[one.parent])
        disputed = link.disputed_ns is not None and abs(one.stamp_ns - link.disputed_ns) <= DISPUTED_NS
        if not disputed and link.add(one.stamp_ns, one.pose):
            stamps.add(one.stamp_ns)
        return False

    def _place(self, one: Transform, heard_ns: dict[str, int], stamps: set[int]) -> bool:
        self._links[one.child] = _Link(one.parent, False, [one.stamp_ns], [one.pose], heard_ns)
        stamps.add(one.stamp_ns)
        return True

    def _move(self, link: _Link, one: Transform, stamps: set[int]) -> bool:
        """Handle a frame under another parent: it moved there, or two publishers disagree."""
        newest_ns, heard_ns = link.heard_ns[link.parent], link.heard_ns.get(one.parent)
        if one.stamp_ns < newest_ns:
            return False  # older than the current parent
        link.heard_ns[one.parent] = one.stamp_ns
        in_turn = heard_ns is not None and one.stamp_ns - min(heard_ns, newest_ns) <= DISPUTED_NS
        if one.stamp_ns == newest_ns or in_turn:
            first, second = sorted((one.parent, link.parent))
            self.faults[f"{one.child!r} alternates between the parents {first!r} and {second!r}: both ignored"] += 1
            link.disputed_ns = one.stamp_ns
            link.stamps.clear()
            link.poses.clear()
            return False
        self.faults[f"{one.child!r} moved from {link.parent!r} to {one.parent!r}"] += 1
        return self._place(one, link.heard_ns, stamps)

    def _connect(self) -> None:
        """Find the chain between tool and base, and the stamps that wait for it."""
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
        # Drop what no longer matters; a frame that returns starts afresh.
        self._links = {child: link for child, link in self._links.items() if link.static or child in self._related}
        self._waiting = []
        self._wait(sorted({stamp_ns for link in self._moving for stamp_ns in link.stamps}))

    def _path(self, frame: str) -> list[str]:
        """Return the frame and its ancestors up to the root, or once around a loop."""
        path = [frame]
        while (link := self._links.get(path[-1])) is not None and link.parent not in path:
            path.append(link.parent)
        return path

    def _wait(self, stamps: Iterable[int]) -> None:
        for stamp_ns in stamps:
            if not _contains(self._given, stamp_ns):
                _insert(self._waiting, stamp_ns)

    def _completed(self, news: set[int] | None) -> list[tuple[int, Pose]]:
        """Return the waiting stamps whose chain is now complete; with `news`, only stamps near those can be."""
        found: list[tuple[int, Pose]] = []
        if self._chain is None or not all(link.stamps for link in self._moving):
            return found
        candidates = set(self._waiting if news is None else ())
        for stamp_ns in news or ():
            first = bisect.bisect_left(self._waiting, stamp_ns - INTERPOLATED_NS)
            candidates.update(self._waiting[first : bisect.bisect_right(self._waiting, stamp_ns + INTERPOLATED_NS)])
        for stamp_ns in sorted(candidates):
            if (pose := self._pose(stamp_ns)) is not None:
                del self._waiting[bisect.bisect_left(self._waiting, stamp_ns)]
                _insert(self._given, stamp_ns)
                found.append((stamp_ns, pose))
        return found

    def _pose(self, stamp_ns: int) -> Pose | None:
        assert self._chain is not None
        ends = []  # tool and base in their common ancestor
        for children in self._chain:
            pose = rigid.IDENTITY
            for child in children:  # from the bottom up
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
        known = f"; known frames: {shown or 'none'}"
        unknown = [frame for frame in (self._base, self._tool) if frame not in frames]
        if unknown:
            return f"no transform names {' or '.join(map(repr, unknown))}{known}"
        for frame in (self._tool, self._base):
            path = self._path(frame)
            if path[-1] in self._links:
                loop = path[path.index(self._links[path[-1]].parent) :]
                return f"{' -> '.join([*loop, loop[0]])} is a loop of parents{known}"
        tool, base = self._path(self._tool)[-1], self._path(self._base)[-1]
        return f"{self._tool!r} leads up to {tool!r}, which has no parent, {self._base!r} to {base!r}{known}"


def _fault(one: Transform) -> str:
    """Return what is wrong with a transform by tf2's rules, or ""."""
    if not one.child or not one.parent:
        return f"a transform lacks a frame name ({one.child!r} in {one.parent!r})"
    if one.child == one.parent:
        return f"{one.child!r} is its own parent"
    if not all(map(math.isfinite, one.pose)):
        return f"{one.child!r} in {one.parent!r}: not finite"
    if abs(sum(part * part for part in one.pose[3:]) - 1.0) > QUATERNION_TOLERANCE:
        return f"{one.child!r} in {one.parent!r}: its quaternion is not of unit length"
    return ""


def _contains(stamps: list[int], stamp_ns: int) -> bool:
    index = bisect.bisect_left(stamps, stamp_ns)
    return index < len(stamps) and stamps[index] == stamp_ns


def _insert(stamps: list[int], stamp_ns: int) -> None:
    if not _contains(stamps, stamp_ns):
        bisect.insort(stamps, stamp_ns)
        del stamps[: max(_expired(stamps, stamp_ns), 0)]


def _expired(stamps: list[int], stamp_ns: int) -> int:
    """Return how many of the oldest `stamps` (ascending) may be dropped once `stamp_ns` is known."""
    return max(bisect.bisect_left(stamps, stamp_ns - KEPT_NS), len(stamps) - KEPT_SAMPLES)
