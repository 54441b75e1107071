# SPDX-License-Identifier: Apache-2.0
"""How fast are bags decoded into the store and windows read from it, what does that cost in memory, and why raw frames?

Every figure is a ratio of two things measured in one run on the same episodes, in turns, the median of the rounds:

  store      bag -> store on one core, against reading the bag's images with rosbags and decoding with cv2 those of
             them that the store decodes (a camera is faster than the control grid: the others are read only). Also
             against more than that least: the store's other topics read, too, but not deserialised; each picture
             brought to the network's size; all images decoded. With simplejpeg, where it is installed, and without
  cores      bag -> store with one process for each core, against one process; and, for what the machine itself gives,
             the same of processes that only decode pictures
  windows    random windows from the store, against decoding JPEGs of the same frames that are in memory
  lerobot    random windows as training gets them, against LeRobot's own loader on what `vla convert` made of the bags
  memory     peak resident memory of training on all episodes, against a tenth of them
  encodings  size and speed of frames kept raw, as PNG, compressed with zlib, as JPEG

    vla record-demo --episodes 40 --bags bags/
    python benchmarks/demos.py --bags bags/ --lerobot-python lerobot-venv/bin/python --json demos.json

LeRobot is in an environment of its own (`pip install lerobot`); without one that figure is left out, and said to be.
"""

from __future__ import annotations

import argparse
import collections
import functools
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from figures import write
from rosbags.highlevel import AnyReader

from vla_ros import images, jpeg, resources
from vla_ros.contract import ObservationSpec, Timing
from vla_ros.demos.bag_source import bag_parts
from vla_ros.demos.bag_writer import typestore
from vla_ros.demos.episode import Episode
from vla_ros.demos.finding import find_bags
from vla_ros.demos.frames import Frames
from vla_ros.demos.markers import EPISODE_TOPIC
from vla_ros.demos.store import load_parts
from vla_ros.demos.windows import window_frames, windows
from vla_ros.robot import Robot, load_robot

BATCH = 32
JPEG_QUALITY = 95


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bags", type=Path, nargs="+", required=True, metavar="PATH", help="bags, or folders of them")
    parser.add_argument(
        "--short-bags", type=Path, nargs="+", metavar="PATH", help="also decode these: bags of a few episodes each"
    )
    parser.add_argument("--robot", default="tabletop", help="robot's file or name (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each measurement (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=40, help="bags to use at most (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="training steps to watch (default: %(default)s)")
    parser.add_argument(
        "--lerobot-python", type=Path, metavar="PYTHON", help="interpreter in which LeRobot is installed"
    )
    parser.add_argument(
        "--lerobot-bags", type=int, default=1, help="bags to convert for LeRobot at most (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--watch-training", nargs=2, metavar=("STORE", "EPISODES"), help=argparse.SUPPRESS)
    args = parser.parse_args()

    robot = load_robot(args.robot)
    bags = find_bags(args.bags)[: args.limit]
    if args.watch_training:
        store, count = args.watch_training
        print(watch_training(bags, int(count), robot, Path(store), args.steps))
        return
    spec, timing = recipe()
    with tempfile.TemporaryDirectory() as scratch:
        figures: dict[str, Any] = {"bags": len(bags)}
        figures |= decoding(bags, robot, spec, timing, Path(scratch), args.rounds)
        if args.short_bags:
            short = find_bags(args.short_bags)
            figures["short"] = decoding(short, robot, spec, timing, Path(scratch) / "short", args.rounds)
        episodes, *_ = load_parts(bag_parts(bags, robot, spec, timing), Path(scratch) / "kept", workers=1)
        figures["frames"] = sum(map(len, episodes))
        figures["windows"] = window_access(episodes, timing, args.rounds)
        if args.lerobot_python:
            # Not above: processes that decode read this file, too, and need no torch.
            from lerobot_windows import against_lerobot

            figures["lerobot"] = against_lerobot(
                args.lerobot_python, bags[: args.lerobot_bags], args.robot, robot, Path(scratch), args.rounds
            )
        figures["encodings"] = encodings(episodes, args.rounds)
        figures["memory"] = memory(args, len(episodes), Path(scratch) / "kept")
    rows = table(figures)
    for what, value in rows:
        print(f"{what}: {value}")
    if args.json:
        write(
            args.json,
            title="Demonstrations: the store",
            runs=args.rounds,
            columns=("what", "ratio"),
            rows=rows,
            note=note(figures),
            details=figures,
        )


def note(figures: dict[str, Any]) -> str:
    """What the figures are of."""
    shown = figures["images"]
    return (
        f"{figures['bags']} bags, {figures['frames']} frames, as config/train/tabletop.json samples them; medians of "
        "the rounds, in one run on the same episodes. The same images: rosbags reads all "
        f"{shown['in the bags']} images of the bags, and cv2 decodes to RGB the {shown['decoded']} of them that a tick "
        "of an episode takes, which are those that the store decodes"
    )


def table(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures as rows of what and ratio."""
    memory_used, encoded = figures["memory"], figures["encodings"]
    rows = [
        *decoding_rows("bag to store", figures),
        *(decoding_rows("short bags to store", figures["short"]) if "short" in figures else ()),
        (
            "random windows: speed against decoding JPEGs in memory",
            f"{figures['windows']['speed_of_jpeg_decoding']:.1f}",
        ),
        *lerobot_rows(figures.get("lerobot")),
        (
            f"peak memory of training: {memory_used['all']['data_mb']:.0f} MB of frames against "
            f"{memory_used['tenth']['data_mb']:.0f} MB",
            f"{memory_used['all_of_tenth']:.3f}",
        ),
    ]
    for name, one in encoded.items():
        exact = "exact" if not one["largest_error"] else f"off by up to {one['largest_error']} of 255"
        size, time_ = f"{one['size_of_raw']:.2f}", f"{one['time_of_raw']:.1f}"
        rows.append((f"frames as {name} ({exact}): size, and time to get one back, of raw", f"{size}, {time_}"))
    return rows


def decoding_rows(what: str, measured: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows about bags becoming a store."""
    rows = []
    for name, store in measured["store"].items():
        rows += [
            (f"{what}, {name}, by CPU time: speed against rosbags + cv2 of the same images", f"{store['cpu']:.2f}"),
            ("the same by the clock", f"{store['wall']:.2f}"),
            ("by CPU time, against the same with the store's other topics read", f"{store['cpu_topics']:.2f}"),
            ("by CPU time, against rosbags + cv2 + the same resizing", f"{store['cpu_resized']:.2f}"),
            ("by CPU time, against rosbags + cv2 of all images", f"{store['cpu_all']:.2f}"),
        ]
    cores = measured["cores"]
    both = f"{cores['speed_of_one_process']:.2f} ({cores['plain_decoding']:.2f})"
    rows.append((f"{what}, {cores['processes']} processes: speed against one (of nothing but decoding JPEGs)", both))
    return rows


def lerobot_rows(measured: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The rows about LeRobot's loader, or the one that says that it was left out."""
    if measured is None:
        return [("random windows: speed against LeRobot's loader", "left out: no --lerobot-python")]
    against = f"LeRobot {measured['lerobot']}'s loader ({measured['decoder']} {measured['decoder_version']})"
    return [
        (f"random windows, as bytes: speed against {against}", f"{measured['speed_of_lerobot']:.1f}"),
        (
            "random windows, made floats in [0, 1] as LeRobot's are: speed against it",
            f"{measured['speed_of_lerobot_as_floats']:.1f}",
        ),
        (
            f"{measured['checked_windows']} windows by LeRobot against ours: largest difference of a pixel (of 255), "
            "of a state, of an action",
            f"{measured['largest_error_of_pictures']:.1g}, {measured['largest_error_of_states']:.1g}, "
            f"{measured['largest_error_of_actions']:.1g}",
        ),
        (
            "statistics in meta/stats.json against LeRobot's own and the true quantiles: largest difference",
            ", ".join(f"{value:.1g}" for value in measured["largest_error_of_statistics"].values()),
        ),
    ]


def recipe() -> tuple[ObservationSpec, Timing]:
    """What the shipped recipe samples."""
    from vla_ros.train.build import observation_spec
    from vla_ros.train.recipes import load_config

    return observation_spec(load_config(resources.path("config/train") / "tabletop.json"))


def decoding(
    bags: Sequence[Path], robot: Robot, spec: ObservationSpec, timing: Timing, scratch: Path, rounds: int
) -> dict[str, Any]:
    """Bags into a new store each time, against the least that reading their images takes."""
    used = images_used(bags, robot, spec, timing)
    parts = bag_parts(bags, robot, spec, timing)
    processes = len(os.sched_getaffinity(0))
    ways = {"simplejpeg": jpeg.simplejpeg, "cv2 alone": None} if jpeg.simplejpeg else {"cv2 alone": None}

    def store(workers: int) -> None:
        load_parts(parts, scratch / "timed", workers=workers)

    times: dict[str, list[tuple[float, float]]] = collections.defaultdict(list)
    for _ in range(rounds):
        times["bare"].append(timed(lambda: read_bare(bags, robot, spec, used)))
        times["topics"].append(timed(lambda: read_bare(bags, robot, spec, used, topics=True)))
        times["resized"].append(timed(lambda: read_bare(bags, robot, spec, used, resize=True)))
        times["all"].append(timed(lambda: read_bare(bags, robot, spec, None)))
        for name, module in ways.items():
            jpeg.simplejpeg = module
            times[name].append(timed(lambda: store(1)))
            shutil.rmtree(scratch / "timed")
        jpeg.simplejpeg = ways.get("simplejpeg")
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
    """Decode the same pictures in each of some processes that are there already."""
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
    """For each bag and each of its image messages: whether the store needs it decoded."""
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
            load_parts(bag_parts(bags, robot, spec, timing), Path(scratch), workers=1)
    finally:
        images.decode_image_file = decode
    return [[wanted(bytes(message().data)) for _, message in bare_messages(bag, robot, spec)] for bag in bags]


def bare_messages(bag: Path, robot: Robot, spec: ObservationSpec, topics: bool = False) -> Any:
    """For each image message of a bag its camera and a function that deserialises it, by nothing but rosbags.

    topics: read the messages of the other topics that become an episode, too, and do nothing with them.
    """
    cameras = {robot.cameras[camera.name].topic: camera for camera in spec.cameras}
    others = {robot.demonstrated_twist.topic, robot.gripper_command.topic, EPISODE_TOPIC} if topics else set()
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
    """Read the images' topics, and deserialise and decode (and resize) what is used, None for all; nothing else."""
    for number, bag in enumerate(bags):
        needed = itertools.repeat(True) if used is None else used[number]
        for (camera, message), decode in zip(bare_messages(bag, robot, spec, topics), needed):
            if decode:
                picture = cv2.imdecode(message().data, cv2.IMREAD_COLOR_RGB)
                if resize:
                    images.resize(picture, camera)


def window_access(episodes: Sequence[Episode], timing: Timing, rounds: int) -> dict[str, Any]:
    """Batches of random windows, all cameras, from the mapped store and from JPEGs in memory."""
    table = windows([len(episode) for episode in episodes], timing.history)
    rows = np.random.default_rng(0).integers(0, len(table), (20, BATCH))
    cameras = list(episodes[0].images)
    frames = {camera: Frames([episode.images for episode in episodes], camera) for camera in cameras}
    encoded = {
        camera: [[images.encode_jpeg(image, JPEG_QUALITY) for image in episode.images[camera]] for episode in episodes]
        for camera in cameras
    }

    def from_store() -> None:
        for batch in rows:
            episode, first, stop = table[batch].T
            for camera in cameras:
                frames[camera].gather(episode, window_frames(first, stop, timing.history)[0])

    def from_jpegs() -> None:
        for batch in rows:
            for episode, first, stop in table[batch]:
                for camera in cameras:
                    for data in encoded[camera][episode][first:stop]:
                        images.decode_image_file(data)

    from_store()
    stored, decoded = [], []
    for _ in range(rounds):
        stored.append(timed(from_store)[0])
        decoded.append(timed(from_jpegs)[0])
    return {
        "speed_of_jpeg_decoding": ratio(decoded, stored),
        "windows_per_s": rows.size / statistics.median(stored),
        "history": timing.history,
    }


def encodings(episodes: Sequence[Episode], rounds: int) -> dict[str, dict[str, Any]]:
    """Frames drawn at random: bytes and time to get one back, each relative to raw bytes copied out of a map."""
    random = np.random.default_rng(0)
    chosen = [
        np.array(episode.images[camera][random.integers(len(episode))])
        for episode in (episodes[index] for index in random.integers(0, len(episodes), 200))
        for camera in episode.images
    ]
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    ways: dict[str, tuple[Callable[[np.ndarray], bytes], Callable[[bytes], Any]]] = {
        "raw": (lambda image: image.tobytes(), lambda data: np.frombuffer(data, np.uint8).copy()),
        "png": (lambda image: cv2.imencode(".png", image, fast)[1].tobytes(), images.decode_image_file),
        "zlib": (
            lambda image: zlib.compress(image.tobytes(), 1),
            lambda data: np.frombuffer(zlib.decompress(data), "B"),
        ),
        "jpeg": (lambda image: images.encode_jpeg(image, JPEG_QUALITY), images.decode_image_file),
    }
    kept = {name: [encode(image) for image in chosen] for name, (encode, _) in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (_, decode) in ways.items():
            times[name].append(timed(lambda name=name, decode=decode: [decode(data) for data in kept[name]])[0])
    errors = [int(np.abs(images.decode_image_file(data).astype(int) - image).max())
              for data, image in zip(kept["jpeg"], chosen, strict=True)]  # fmt: skip
    return {
        name: {
            "size_of_raw": sum(map(len, kept[name])) / sum(map(len, kept["raw"])),
            "time_of_raw": ratio(times[name], times["raw"]),
            "largest_error": max(errors) if name == "jpeg" else 0,
        }
        for name in ways
    }


def memory(args: argparse.Namespace, episodes: int, store: Path) -> dict[str, Any]:
    """Peak resident memory in MB of a process that trains, on a tenth of the episodes and on all."""

    def peak(count: int) -> dict[str, float]:
        command = [sys.executable, __file__, "--bags", *map(str, args.bags), "--robot", args.robot]
        command += ["--limit", str(args.limit), "--steps", str(args.steps), "--watch-training", str(store), str(count)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])

    few, all_of_them = peak(max(1, episodes // 10)), peak(episodes)
    return {
        "tenth": few,
        "all": all_of_them,
        "all_of_tenth": all_of_them["peak_mb"] / few["peak_mb"],
        "grown_mb_of_data_mb": (all_of_them["peak_mb"] - few["peak_mb"]) / (all_of_them["data_mb"] - few["data_mb"]),
    }


def watch_training(bags: Sequence[Path], count: int, robot: Robot, store: Path, steps: int) -> str:
    """Train on the first `count` episodes of `bags` and return the peak of the resident memory, as JSON."""
    import torch

    from vla_ros.policy.module import VLAModule
    from vla_ros.train.build import new_policy, observation_spec
    from vla_ros.train.data import DemonstrationData
    from vla_ros.train.recipes import load_config

    torch.set_num_threads(1)
    config = load_config(resources.path("config/train") / "tabletop.json")
    spec, timing = observation_spec(config)
    episodes = load_parts(bag_parts(bags, robot, spec, timing), store, workers=1)[0][:count]
    policy = new_policy(config, episodes)
    module = VLAModule(policy, max_steps=steps, optimizer=config.optimizer, loss=config.loss, augment=config.augment)
    data = DemonstrationData(policy, training=episodes, validation=(), batch_windows=BATCH, max_steps=steps)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    module.log_dict = module.log = lambda *_, **__: None  # type: ignore[method-assign]
    peak_mb = 0.0
    for index, batch in enumerate(data.train_dataloader()):
        loss = module.training_step(batch, index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        peak_mb = max(peak_mb, resident_mb())
    pixels = sum(images.nbytes for episode in episodes for images in episode.images.values())
    return json.dumps({"peak_mb": peak_mb, "data_mb": pixels / 1e6, "episodes": len(episodes)})


def resident_mb() -> float:
    """This process's resident memory, mapped files included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall_s, time.process_time() - cpu_s


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    return statistics.median(one) / statistics.median(other)


if __name__ == "__main__":
    main()
