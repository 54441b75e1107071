# SPDX-License-Identifier: Apache-2.0
"""How fast are bags decoded into the store, and windows read from it? What does it cost in memory? Why raw frames?

Every figure compares two things measured in turns, in one run on the same episodes, as the median of the rounds:

  store      bag -> store on one core, against reading the bag's images with rosbags and decoding with cv2 those that
             the store decodes (a camera is faster than the control grid; the other images are read only). Also against
             doing more: reading the store's other topics too, without deserialising them; resizing each image to the
             network's size; decoding all images. With simplejpeg, if installed, and without
  cores      bag -> store with one process per core, against one process; and the same for processes that only decode
             images, which is what the machine itself allows
  windows    random windows from the store, against decoding JPEGs of the same frames in memory
  lerobot    random windows as training gets them, against LeRobot's own loader on the output of `vla convert`
  memory     peak resident memory of training on all episodes, against a tenth of them
  encodings  size and speed of frames kept raw, as PNG, compressed with zlib, as JPEG

    vla record-demo --episodes 40 --output bags
    python benchmarks/store.py --bags bags/ --lerobot-python lerobot-venv/bin/python --json store.json

LeRobot runs in its own environment (`pip install lerobot`); without --lerobot-python, that figure is marked as skipped.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from figures import write
from stopwatch import ratio, timed
from store_decoding import decoding, decoding_rows
from store_memory import memory

from vla_ros import resources
from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.bags.open_bag import find_bags
from vla_ros.datasets.bags.reader import bag_shards
from vla_ros.datasets.episode import Episode, Frames, window_frames, windows
from vla_ros.datasets.store.store import load_shards
from vla_ros.imaging import images
from vla_ros.robot import load_robot

BATCH = 32
JPEG_QUALITY = 95


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bags", type=Path, nargs="+", required=True, metavar="PATH", help="bags or folders of bags")
    parser.add_argument(
        "--short-bags", type=Path, nargs="+", metavar="PATH", help="further bags to decode, of a few episodes each"
    )
    parser.add_argument("--robot", default="tabletop", help="robot file or name (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each measurement (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=40, help="maximum number of bags (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="training steps to measure (default: %(default)s)")
    parser.add_argument(
        "--lerobot-python", type=Path, metavar="PYTHON", help="Python interpreter with LeRobot installed"
    )
    parser.add_argument(
        "--lerobot-bags",
        type=int,
        default=1,
        help="maximum number of bags to convert for LeRobot (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, help="results file")
    args = parser.parse_args()

    robot = load_robot(args.robot)
    bags = find_bags(args.bags)[: args.limit]
    spec, timing = recipe()
    with tempfile.TemporaryDirectory() as scratch:
        figures: dict[str, Any] = {"bags": len(bags)}
        figures |= decoding(bags, robot, spec, timing, Path(scratch), args.rounds)
        if args.short_bags:
            short = find_bags(args.short_bags)
            figures["short"] = decoding(short, robot, spec, timing, Path(scratch) / "short", args.rounds)
        episodes, *_ = load_shards(bag_shards(bags, robot, spec, timing), Path(scratch) / "kept", workers=1)
        figures["frames"] = sum(map(len, episodes))
        figures["windows"] = window_access(episodes, timing, args.rounds)
        if args.lerobot_python:
            # Not above: processes that decode read this file, too, and need no torch.
            from lerobot_windows import against_lerobot

            figures["lerobot"] = against_lerobot(
                args.lerobot_python, bags[: args.lerobot_bags], args.robot, robot, Path(scratch), args.rounds
            )
        figures["encodings"] = encodings(episodes, args.rounds)
        figures["memory"] = memory(bags, args.robot, len(episodes), Path(scratch) / "kept", args.steps)
    rows = table(figures)
    for what, value in rows:
        print(f"{what}: {value}")
    if args.json:
        write(
            args.json,
            title="The decode cache (store)",
            runs=args.rounds,
            columns=("comparison", "result"),
            rows=rows,
            note=note(figures),
            details=figures,
        )


def note(figures: dict[str, Any]) -> str:
    """Return the note of the table."""
    shown = figures["images"]
    return (
        f"{figures['bags']} bags, {figures['frames']} frames, sampled as by config/train/tabletop.json; ratios are "
        "medians of the rounds, in one run on the same episodes. Same images: rosbags reads all "
        f"{shown['in the bags']} images of the bags and cv2 decodes to RGB the {shown['decoded']} that some tick of "
        "an episode uses, as the store does."
    )


def table(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the table."""
    memory_used, encoded = figures["memory"], figures["encodings"]
    rows = [
        *decoding_rows("bag to store", figures),
        *(decoding_rows("short bags to store", figures["short"]) if "short" in figures else ()),
        (
            "random windows: speed relative to decoding JPEGs in memory",
            f"{figures['windows']['speed_of_jpeg_decoding']:.1f}",
        ),
        *lerobot_rows(figures.get("lerobot")),
        (
            f"peak memory of training: with {memory_used['all']['data_mb']:.0f} MB of frames relative to "
            f"{memory_used['tenth']['data_mb']:.0f} MB",
            f"{memory_used['all_of_tenth']:.3f}",
        ),
    ]
    for name, one in encoded.items():
        exact = "exact" if not one["largest_error"] else f"off by up to {one['largest_error']} of 255"
        size, time_ = f"{one['size_of_raw']:.2f}", f"{one['time_of_raw']:.1f}"
        rows.append((f"frames as {name} ({exact}): size, and time to read one, relative to raw", f"{size}, {time_}"))
    return rows


def lerobot_rows(measured: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Return the rows about LeRobot's loader, or one that says it was skipped."""
    if measured is None:
        return [("random windows: speed relative to LeRobot's loader", "skipped: no --lerobot-python")]
    against = f"LeRobot {measured['lerobot']}'s loader ({measured['decoder']} {measured['decoder_version']})"
    return [
        (f"random windows, as bytes: speed relative to {against}", f"{measured['speed_of_lerobot']:.1f}"),
        (
            "random windows, as floats in [0, 1] like LeRobot's: speed relative to it",
            f"{measured['speed_of_lerobot_as_floats']:.1f}",
        ),
        (
            f"{measured['checked_windows']} windows, LeRobot's against ours: largest difference of a pixel (of 255), "
            "a state, an action",
            f"{measured['largest_error_of_pictures']:.1g}, {measured['largest_error_of_states']:.1g}, "
            f"{measured['largest_error_of_actions']:.1g}",
        ),
        (
            "statistics in meta/stats.json against LeRobot's own, and against the true quantiles: largest difference",
            ", ".join(f"{value:.1g}" for value in measured["largest_error_of_statistics"].values()),
        ),
    ]


def recipe() -> tuple[ObservationSpec, Timing]:
    """Return what the shipped recipe samples."""
    from vla_ros.train.initial_policy import observation_spec
    from vla_ros.train.recipes import load_config

    return observation_spec(load_config(resources.path("config/train") / "tabletop.json"))


def window_access(episodes: Sequence[Episode], timing: Timing, rounds: int) -> dict[str, Any]:
    """Time batches of random windows, all cameras, from the mapped store and from JPEGs in memory."""
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
    """Measure random frames: size and time to decode one, relative to copying raw bytes from a map."""
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


if __name__ == "__main__":
    main()
