# SPDX-License-Identifier: Apache-2.0
"""Speed of decoding bags into a store, against reading their images with rosbags and cv2; for store.py."""

from __future__ import annotations

import collections
import functools
import importlib.metadata
import itertools
import multiprocessing
import os
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.highlevel import AnyReader
from stopwatch import ratio, timed

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.bags.cdr.messages import typestore
from vla_ros.datasets.bags.reader import bag_shards
from vla_ros.datasets.store.store import load_shards
from vla_ros.imaging import images
from vla_ros.robot import Robot
from vla_ros.topics import EPISODE


def decoding(
    bags: Sequence[Path], robot: Robot, spec: ObservationSpec, timing: Timing, scratch: Path, rounds: int
) -> dict[str, Any]:
    """Time decoding into a new store, against the least that reading the images takes."""
    used = images_used(bags, robot, spec, timing)
    parts = bag_shards(bags, robot, spec, timing)
    processes = len(os.sched_getaffinity(0))
    ways = {"simplejpeg": images.simplejpeg, "cv2 alone": None} if images.simplejpeg else {"cv2 alone": None}

    def store(workers: int) -> None:
        load_shards(parts, scratch / "timed", workers=workers)

    times: dict[str, list[tuple[float, float]]] = collections.defaultdict(list)
    for _ in range(rounds):
        times["bare"].append(timed(lambda: read_bare(bags, robot, spec, used)))
        times["topics"].append(timed(lambda: read_bare(bags, robot, spec, used, topics=True)))
        times["resized"].append(timed(lambda: read_bare(bags, robot, spec, used, resize=True)))
        times["all"].append(timed(lambda: read_bare(bags, robot, spec, None)))
        for name, module in ways.items():
            images.simplejpeg = module
            times[name].append(timed(lambda: store(1)))
            shutil.rmtree(scratch / "timed")
        images.simplejpeg = ways.get("simplejpeg")
        times["cores"].append(timed(lambda: store(processes)))
        shutil.rmtree(scratch / "timed")
        times["decoding alone"].append(timed(lambda: decode_at_once(1)))
        times["decoding at once"].append(timed(lambda: decode_at_once(processes)))
    wall, cpu = ({name: [one[clock] for one in values] for name, values in times.items()} for clock in (0, 1))
    count = sum(map(sum, used))
    return {
        "images": {"in the bags": sum(map(len, used)), "decoded": count},
        "simplejpeg": importlib.metadata.version("simplejpeg") if "simplejpeg" in ways else None,
        "store": {
            name: {
                "cpu": ratio(cpu["bare"], cpu[name]),
                "wall": ratio(wall["bare"], wall[name]),
                "cpu_topics": ratio(cpu["topics"], cpu[name]),
                "cpu_resized": ratio(cpu["resized"], cpu[name]),
                "cpu_all": ratio(cpu["all"], cpu[name]),
                "images_per_s": count / statistics.median(wall[name]),
            }
            for name in ways
        },
        "cores": {
            "processes": processes,
            "speed_of_one_process": ratio(wall[next(iter(ways))], wall["cores"]),
            "plain_decoding": processes * ratio(wall["decoding alone"], wall["decoding at once"]),
        },
    }


def decode_at_once(processes: int) -> None:
    """Decode the same images in each of several running processes."""
    workers = [multiprocessing.get_context("fork").Process(target=decode_many) for _ in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def decode_many() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    data = cv2.imencode(".jpg", noise)[1]
    for _ in range(5000):
        cv2.imdecode(data, cv2.IMREAD_COLOR)


def images_used(bags: Sequence[Path], robot: Robot, spec: ObservationSpec, timing: Timing) -> list[list[bool]]:
    """Return, for each image message of each bag, whether the store needs it decoded."""
    decode = images.decode_image_file
    seen: collections.Counter[bytes] = collections.Counter()

    def noted(data: bytes) -> images.Image:
        seen[data] += 1
        return decode(data)

    def wanted(data: bytes) -> bool:  # of pictures that are the same to the last byte, as many as were decoded
        seen[data] -= 1
        return seen[data] >= 0

    images.decode_image_file = noted
    try:
        with tempfile.TemporaryDirectory() as scratch:
            load_shards(bag_shards(bags, robot, spec, timing), Path(scratch), workers=1)
    finally:
        images.decode_image_file = decode
    return [[wanted(bytes(message().data)) for _, message in bare_messages(bag, robot, spec)] for bag in bags]


def bare_messages(bag: Path, robot: Robot, spec: ObservationSpec, topics: bool = False) -> Any:
    """Yield, for each image message of a bag, its camera and a function that deserialises it with rosbags alone.

    topics: read the messages of the other topics that become an episode, too, and do nothing with them.
    """
    cameras = {robot.cameras[camera.name].topic: camera for camera in spec.cameras}
    others = {robot.demonstrated_twist.topic, robot.gripper_command.topic, EPISODE} if topics else set()
    others |= {robot.stream(name).topic for name in spec.streams} - {*cameras} if topics else set()
    with AnyReader([bag], default_typestore=typestore()) as reader:
        wanted = [one for one in reader.connections if one.topic.lstrip("/") in {*cameras, *others}]
        for connection, _, data in reader.messages(wanted):
            topic = connection.topic.lstrip("/")
            if topic in cameras:
                yield cameras[topic], functools.partial(reader.deserialize, data, connection.msgtype)


def read_bare(
    bags: Sequence[Path],
    robot: Robot,
    spec: ObservationSpec,
    used: list[list[bool]] | None,
    resize: bool = False,
    topics: bool = False,
) -> None:
    """Read the image topics; deserialise, decode and optionally resize the images used (all if None)."""
    for number, bag in enumerate(bags):
        needed = itertools.repeat(True) if used is None else used[number]
        for (camera, message), decode in zip(bare_messages(bag, robot, spec, topics), needed):
            if decode:
                picture = cv2.imdecode(message().data, cv2.IMREAD_COLOR_RGB)
                if resize:
                    images.resize(picture, camera)


def decoding_rows(what: str, measured: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the rows about decoding bags into a store."""
    rows = []
    for name, store in measured["store"].items():
        rows += [
            (f"{what}, {name}, CPU time: speed relative to rosbags + cv2 on the same images", f"{store['cpu']:.2f}"),
            ("the same, wall clock", f"{store['wall']:.2f}"),
            ("the same, CPU time, also reading the store's other topics", f"{store['cpu_topics']:.2f}"),
            ("the same, CPU time, also resizing the images", f"{store['cpu_resized']:.2f}"),
            ("the same, CPU time, decoding all images", f"{store['cpu_all']:.2f}"),
        ]
    cores = measured["cores"]
    both = f"{cores['speed_of_one_process']:.2f} ({cores['plain_decoding']:.2f})"
    rows.append(
        (f"{what}, {cores['processes']} processes: speed relative to one (in brackets: only decoding JPEGs)", both)
    )
    return rows
