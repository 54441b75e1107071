# SPDX-License-Identifier: Apache-2.0
"""What happens with damaged demonstrations? Thousands of mutated ones are read as in training: each gives an error or a
part.

Bags in every container (MCAP plain, with zstd chunks, messages or file; sqlite3 plain and with zstd messages) and small
data sets (CALVIN's npz and annotations, RLDS TFRecords, LeRobot tables and videos) are mutated at random: bits flipped,
bytes overwritten, removed, duplicated, zeroed, numbers made extreme, files truncated, metadata.yaml damaged or removed.
Each try has a time and a memory limit in a separate process, so that an interpreter crash is noticed. A truncated bag
must yield only messages that were recorded, and a store entry must be complete or absent.

    python benchmarks/fuzz_bags.py --count 10000 --json benchmarks/results/fuzz_bags.json
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import figures
import fuzz_datasets
import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from vla_ros.contract import Camera, ObservationSpec, Timing
from vla_ros.datasets.bags.cdr.messages import typestore
from vla_ros.datasets.bags.open_bag import open_bag
from vla_ros.datasets.bags.reader import BagReader
from vla_ros.datasets.errors import BagError, SourceError
from vla_ros.datasets.shards import SourceShard
from vla_ros.datasets.store.entry import read_manifest
from vla_ros.datasets.store.store import ensure
from vla_ros.imaging import images
from vla_ros.robot import Robot, load_robot
from vla_ros.robot_streams import Stream

CONTAINERS = {
    "mcap": (StoragePlugin.MCAP, CompressionMode.NONE),
    "mcap, zstd chunks": (StoragePlugin.MCAP, CompressionMode.STORAGE),
    "mcap, zstd messages": (StoragePlugin.MCAP, CompressionMode.MESSAGE),
    "mcap, zstd file": (StoragePlugin.MCAP, CompressionMode.FILE),
    "sqlite3": (StoragePlugin.SQLITE3, CompressionMode.NONE),
    "sqlite3, zstd messages": (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
}
MUTATIONS = ("bits", "bytes", "extreme", "cut out", "doubled", "zeros", "cut off")
OUTCOMES = ("whole", "part", "error", "wrong", "crash", "hang")
SPEC = ObservationSpec((Camera("static", 8, 8), Camera("wrist", 8, 8)), ("ee_x", "ee_r0", "gripper_opening"))
TIMING = Timing(10.0, 4, 8)
START_NS = 1_700_000_000_000_000_000
TICKS = 8
MEMORY_BYTES = 3 << 30
Messages = list[tuple[str, int, bytes]]


class TooSlow(BaseException):
    """The time limit was exceeded; not an OSError, which readers take for a failing disk."""


def robot() -> Robot:
    """Return the table-top arm with a raw camera besides the compressed one."""
    plain = load_robot("tabletop")
    wrist = Stream("camera/wrist/image_raw", "sensor_msgs/msg/Image", "header")
    return dataclasses.replace(plain, cameras={**plain.cameras, "wrist": wrist})


def seeds(folder: Path) -> dict[str, Path]:
    """Write a small demonstration in each container, and a small data set in each other format."""
    bags = fuzz_datasets.seeds(folder)
    for number, (name, (storage, compression)) in enumerate(CONTAINERS.items()):
        bags[name] = folder / f"bag{number}"
        writer = Writer(bags[name], version=9, storage_plugin=storage)
        if compression is not CompressionMode.NONE:
            writer.set_compression(compression, CompressionFormat.ZSTD)
        writer.set_custom_data("task", "pick up the red block")
        with writer:
            topics: dict[str, Any] = {}
            for time_ns, topic, kind, message in _demonstration():
                if topic not in topics:
                    topics[topic] = writer.add_connection(topic, kind, typestore=typestore())
                writer.write(topics[topic], time_ns, typestore().serialize_cdr(message, kind))
    return bags


def _demonstration() -> list[tuple[int, str, str, Any]]:
    """Return a fraction of a second of a demonstration as (receive time, topic, type, message)."""
    types, rng = typestore().types, np.random.default_rng(0)
    messages: list[tuple[int, str, str, Any]] = []

    def add(time_ns: int, topic: str, kind: str, **values: Any) -> None:
        messages.append((time_ns + 1_000_000, f"/{topic}", kind, types[kind](**values)))

    def header(time_ns: int) -> Any:
        stamp = types["builtin_interfaces/msg/Time"](sec=time_ns // 10**9, nanosec=time_ns % 10**9)
        return types["std_msgs/msg/Header"](stamp=stamp, frame_id="base_link")

    def vector(kind: str, **values: float) -> Any:
        return types[f"geometry_msgs/msg/{kind}"](**values)

    add(START_NS - 2_000_000, "language_command", "std_msgs/msg/String", data="pick up the red block")
    layout = types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    add(START_NS - 1_500_000, "gripper_command", "std_msgs/msg/Float64MultiArray", layout=layout, data=np.array([0.08]))
    for time_ns in range(START_NS, START_NS + TICKS * 100_000_000 + 1, 50_000_000):
        picture = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        stamp = header(time_ns)
        add(time_ns, "camera/static/image_raw/compressed", "sensor_msgs/msg/CompressedImage", header=stamp,
            format="jpeg", data=np.frombuffer(images.encode_jpeg(picture), np.uint8))  # fmt: skip
        add(time_ns, "camera/wrist/image_raw", "sensor_msgs/msg/Image", header=stamp, height=12, width=16,
            encoding="rgb8", is_bigendian=0, step=48, data=picture.reshape(-1))  # fmt: skip
        pose = vector("Pose", position=vector("Point", x=0.4, y=0.0, z=0.3),
                      orientation=vector("Quaternion", x=1.0, y=0.0, z=0.0, w=0.0))  # fmt: skip
        add(time_ns, "ee_pose", "geometry_msgs/msg/PoseStamped", header=stamp, pose=pose)
        add(
            time_ns,
            "joint_states",
            "sensor_msgs/msg/JointState",
            header=stamp,
            effort=np.zeros(0),
            name=["panda_finger_joint1", "panda_finger_joint2"],
            position=np.array([0.04, 0.04]),
            velocity=np.zeros(0),
        )
        twist = vector("Twist", linear=vector("Vector3", x=0.1, y=0.0, z=0.0),
                       angular=vector("Vector3", x=0.0, y=0.0, z=0.1))  # fmt: skip
        add(time_ns, "demonstrated_twist", "geometry_msgs/msg/TwistStamped", header=stamp, twist=twist)
    return sorted(messages, key=lambda entry: entry[0])


def mutate(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """Return damaged `data`; not empty."""
    result = bytearray(data)
    at = int(rng.integers(len(result)))
    length = int(min(rng.geometric(0.01), len(result) - at))
    if kind == "bits":
        for place in rng.integers(len(result), size=int(rng.integers(1, 9))):
            result[place] ^= 1 << int(rng.integers(8))
    elif kind == "bytes":
        result[at : at + length] = rng.bytes(length)
    elif kind == "extreme":
        number = int(rng.choice(np.array([0, 1, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1], np.uint64)))
        width = int(rng.choice([2, 4, 8]))
        piece = (number & (256**width - 1)).to_bytes(width, str(rng.choice(["little", "big"])))
        result[at : at + width] = piece[: len(result) - at]
    elif kind == "cut out":
        del result[at : at + length]
    elif kind == "doubled":
        result[at:at] = result[at : at + length]
    elif kind == "zeros":
        result[at:] = bytes(len(result) - at)
    else:
        del result[at:]
    return bytes(result)


def damaged(number: int, bags: dict[str, Path], target: Path) -> tuple[str, str]:
    """Write the mutated bag `number` to `target`; return its container and what was done to it."""
    rng = np.random.default_rng(number)
    container, kind = str(rng.choice(list(bags))), str(rng.choice(MUTATIONS))
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(bags[container], target)
    if container in fuzz_datasets.FORMATS:
        files = sorted(path for path in target.rglob("*") if path.is_file() and path.stat().st_size)
        file = files[int(rng.integers(len(files)))]
        file.write_bytes(mutate(file.read_bytes(), kind, rng))
        return container, f"{file.name}: {kind}"
    metadata = target / "metadata.yaml"
    (storage,) = (path for path in target.iterdir() if path != metadata)
    where = rng.random()
    if where < 0.1:
        metadata.write_bytes(mutate(metadata.read_bytes(), kind, rng))
        return container, f"metadata.yaml: {kind}"
    storage.write_bytes(mutate(storage.read_bytes(), kind, rng))
    if where < 0.4:
        metadata.unlink()
    return container, kind


def contents(bag: Path) -> Messages:
    """Return all readable messages."""
    with open_bag(bag) as recording:
        return [(topic.name, time_ns, data) for topic, time_ns, data in recording.serialized()]


def attempt(target: Path, container: str, recorded: Messages, kind: str, read_with: Robot) -> str:
    """Read damaged data into a store; return one of OUTCOMES, never raising because of the data."""
    store = target.with_name("store")
    shutil.rmtree(store, ignore_errors=True)
    try:
        found: Messages | None = None
        if container in fuzz_datasets.FORMATS:
            parts = fuzz_datasets.parts(container, target)
        else:
            found = contents(target)
            if kind == "cut off" and not set(found) <= set(recorded):
                return "wrong"
            parts = [BagReader(target, read_with, SPEC, TIMING).shard()]
        frames = _into_store(parts, store)
        expected = fuzz_datasets.FRAMES.get(container, TICKS)
        return "whole" if frames == expected and found in (None, recorded) else "part" if frames else "error"
    except (BagError, SourceError):
        return "error" if not _half_written(store) else "wrong"
    except TooSlow:
        return "hang"
    except Exception:
        traceback.print_exc()
        return "crash"


def _into_store(parts: Sequence[SourceShard], store: Path) -> int:
    """Decode parts and return their number of frames in the store."""
    manifests = [read_manifest(entry) for part in parts if (entry := ensure(part, store)) is not None]
    if None in manifests or _half_written(store):
        raise ValueError(f"the store is not whole: {sorted(store.iterdir())}")
    return sum(manifest["frames"] for manifest in manifests if manifest is not None)


def _half_written(store: Path) -> bool:
    """Return whether the store has an incomplete or unfinished entry."""
    folders = [path for path in store.iterdir() if path.is_dir()] if store.is_dir() else []
    return any(read_manifest(folder) is None for folder in folders)


def _work(first: int, stop: int, limit_s: float) -> None:
    """Try the bags [first, stop), printing a line of JSON for each, so that the parent sees where it died."""
    logging.disable(logging.CRITICAL)
    os.fsync = lambda _: None  # the machine stays on; ten thousand times it would take minutes
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    def ring(*_: Any) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, ring)
    with tempfile.TemporaryDirectory() as scratch:
        bags = seeds(Path(scratch))
        recorded = {name: contents(bags[name]) for name in CONTAINERS}
        read_with = robot()
        for number in range(first, stop):
            container, kind = damaged(number, bags, Path(scratch) / "damaged")
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            started_s = time.monotonic()
            outcome = attempt(Path(scratch) / "damaged", container, recorded.get(container, []), kind, read_with)
            signal.setitimer(signal.ITIMER_REAL, 0)
            row = {"number": number, "container": container, "kind": kind, "outcome": outcome,
                   "seconds": time.monotonic() - started_s}  # fmt: skip
            print(json.dumps(row), flush=True)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"peak_mib": peak_mib}), flush=True)


def run(count: int, first: int, limit_s: float, batch: int = 500) -> tuple[list[dict[str, Any]], int]:
    """Try the bags [first, first + count) in child processes; return their rows and the peak memory [MiB]."""
    rows: list[dict[str, Any]] = []
    peak_mib, number = 0, first
    while number < first + count:
        stop = min(number + batch, first + count)
        command = [sys.executable, __file__, "--worker", str(number), str(stop), "--limit", str(limit_s)]
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        lines = [json.loads(line) for line in child.stdout.splitlines()]
        rows += [line for line in lines if "number" in line]
        peak_mib = max([peak_mib, *(line["peak_mib"] for line in lines if "peak_mib" in line)])
        number = rows[-1]["number"] + 1 if rows else number
        if number < stop:  # the child died over this one
            rows.append({"number": number, "container": "?", "kind": "?", "outcome": "crash", "seconds": 0.0})
            number += 1
        so_far = collections.Counter(row["outcome"] for row in rows)
        print(f"{number - first}/{count}: {dict(so_far)}", file=sys.stderr, flush=True)
    return rows, peak_mib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="number of mutations (default: 10000)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first mutation (default: 0)")
    parser.add_argument("--limit", type=float, default=20.0, help="time limit per try in seconds (default: 20)")
    parser.add_argument("--json", type=Path, help="results file")
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        _work(*args.worker, args.limit)
        return
    rows, peak_mib = run(args.count, args.first, args.limit)
    names = dict.fromkeys([*CONTAINERS, *fuzz_datasets.FORMATS, *(row["container"] for row in rows)])
    counts = {name: collections.Counter(row["outcome"] for row in rows if row["container"] == name) for name in names}
    table = [[name, sum(count.values()), *(count[outcome] for outcome in OUTCOMES)] for name, count in counts.items()]
    for row in table:
        print("  ".join(map(str, row)))
    bad = [row for row in rows if row["outcome"] in ("wrong", "crash", "hang")]
    slowest_s = max(row["seconds"] for row in rows)
    print(f"slowest {slowest_s:.2f} s, at most {peak_mib} MiB; bad: {bad}")
    if args.json:
        figures.write(
            args.json,
            title="Damaged demonstrations",
            runs=len(rows),
            columns=["container", "mutated", *OUTCOMES],
            rows=table,
            note="Outcomes of reading mutated recordings; whole: the damage is outside the data that training needs. "
            f"Slowest {slowest_s:.2f} s, at most {peak_mib} MiB.",
            details={"bad": bad, "slowest_s": slowest_s, "peak_mib": peak_mib},
        )
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
