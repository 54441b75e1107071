# SPDX-License-Identifier: Apache-2.0
"""Do raw camera images reach another process, with the transport settings of vla_ros and without?

Two cameras, 640x480 rgb8 at 30 Hz with sensor-data QoS (best effort) and depth 1, go from one process to another over
DDS. Prints the share of lost images and the time from stamp to callback, for interleaved runs.

    python benchmarks/image_transport.py --json image_transport.json
"""

from __future__ import annotations

import argparse
import array
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import figures
import numpy as np

from vla_ros import transport

CAMERAS = ("static", "wrist")
SIZE = (480, 640)
RATE_HZ = 30


def send(seconds: float) -> None:
    """Publish both cameras until the receiver has finished."""
    import rclpy
    from rclpy.time import Time
    from sensor_msgs.msg import Image

    from vla_ros.nodes.common.qos import SENSOR_QOS

    rclpy.init()
    node = rclpy.create_node("cameras")
    publishers = [node.create_publisher(Image, f"camera/{name}/image_raw", SENSOR_QOS) for name in CAMERAS]
    while any(publisher.get_subscription_count() == 0 for publisher in publishers):
        time.sleep(0.01)
    time.sleep(0.2)
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8).tobytes()
    period_ns = round(1e9 / RATE_HZ)
    due_ns = time.monotonic_ns()
    for number in range(round(seconds * RATE_HZ)):
        for publisher in publishers:
            message = Image(height=SIZE[0], width=SIZE[1], encoding="rgb8", step=3 * SIZE[1])
            message.header.frame_id = str(number)
            message.header.stamp = Time(nanoseconds=time.time_ns()).to_msg()
            message.data = array.array("B", pixels)
            publisher.publish(message)
        due_ns += period_ns
        time.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
    time.sleep(0.5)
    node.destroy_node()
    rclpy.shutdown()


def receive(seconds: float) -> None:
    """Count arriving images and print the result as JSON."""
    import rclpy
    from sensor_msgs.msg import Image

    from vla_ros.nodes.common.qos import SENSOR_QOS
    from vla_ros.observations.messages import stamp_ns

    rclpy.init()
    node = rclpy.create_node("receiver")
    numbers: dict[str, list[int]] = {name: [] for name in CAMERAS}
    delays_ms: list[float] = []

    def receiver(name: str):
        def callback(message: Image) -> None:
            delays_ms.append((time.time_ns() - stamp_ns(message)) / 1e6)
            numbers[name].append(int(message.header.frame_id))

        return callback

    for name in CAMERAS:
        node.create_subscription(Image, f"camera/{name}/image_raw", receiver(name), SENSOR_QOS)
    # Until the sender has gone: it stays half a second after its last image.
    seen, deadline = False, time.monotonic() + 30.0 + seconds
    while time.monotonic() < deadline:
        rclpy.spin_once(node, timeout_sec=0.1)
        there = node.count_publishers(f"camera/{CAMERAS[0]}/image_raw") > 0
        if seen and not there:
            break
        seen = seen or there
    sent = round(seconds * RATE_HZ)
    p50, p99 = np.percentile(delays_ms, [50, 99]) if delays_ms else (float("nan"), float("nan"))
    received = {name: len(set(numbers[name])) for name in CAMERAS}
    print(json.dumps({"sent_each": sent, "received": received, "p50_ms": p50, "p99_ms": p99}))
    node.destroy_node()
    rclpy.shutdown()


def measure(settings: dict[str, str], seconds: float) -> dict:
    """Measure one run in two new processes."""
    environment = {name: value for name, value in os.environ.items() if name not in transport.environment()}
    environment |= {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_DOMAIN_ID": str(1 + os.getpid() % 100)}
    environment |= settings
    command = [sys.executable, __file__, "--seconds", str(seconds), "--role"]
    receiver = subprocess.Popen([*command, "receive"], env=environment, stdout=subprocess.PIPE, text=True)
    sender = subprocess.Popen([*command, "send"], env=environment)
    try:
        output, _ = receiver.communicate(timeout=seconds + 60)
    finally:
        for process in (receiver, sender):
            if process.poll() is None:
                process.terminate()
            process.wait()
    result = json.loads(output)
    sent = result["sent_each"] * len(CAMERAS)
    result["lost_percent"] = 100 * (1 - sum(result["received"].values()) / sent)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of a run (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="interleaved runs with and without (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results file")
    parser.add_argument("--role", choices=("send", "receive"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        (send if arguments.role == "send" else receive)(arguments.seconds)
        return 0
    settings = {"with": transport.environment(), "without": {}}
    results: dict[str, list[dict]] = {name: [] for name in settings}
    for _ in range(arguments.runs):
        for name, environment in settings.items():
            result = measure(environment, arguments.seconds)
            results[name].append(result)
            print(
                f"{name:>8} the settings: {result['lost_percent']:5.1f} % lost, "
                f"{result['p50_ms']:.1f} ms median, {result['p99_ms']:.1f} ms p99",
                flush=True,
            )
    if arguments.json:
        figures.write(
            arguments.json,
            title="Raw images between processes",
            runs=arguments.runs,
            note="Two cameras, 640x480 at 30 Hz, best effort, with the transport settings of vla_ros and without, "
            f"interleaved in runs of {arguments.seconds:g} s; one number per run.",
            columns=("transport settings", "lost [%]", "median [ms]", "p99 [ms]"),
            rows=[
                (name, *(" ".join(f"{run[key]:.1f}" for run in runs) for key in ("lost_percent", "p50_ms", "p99_ms")))
                for name, runs in results.items()
            ],
            details=results,
        )
    return 0 if max(result["lost_percent"] for result in results["with"]) <= 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
