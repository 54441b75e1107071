# SPDX-License-Identifier: Apache-2.0
"""Two hosts on this machine (network namespaces) and a link between them that delays, loses or is cut. Needs root."""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ETH_P_ALL = 3
A, B, MIDDLE = (f"vla{os.getpid()}{name}" for name in "abm")


def available() -> bool:
    """Whether network namespaces can be made here."""
    return os.geteuid() == 0 and subprocess.run(["ip", "netns"], capture_output=True).returncode == 0


@contextlib.contextmanager
def two_hosts(control: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the command prefixes that run a program on host A and on host B.

    Write "DELAY_S LOSS" into the file `control` to change the link; a loss of 1 cuts it.
    """
    control.write_text("0 0")
    for name in (A, B, MIDDLE):
        subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for index, name in enumerate((A, B)):
            host = ["ip", "netns", "exec", name]
            subprocess.run(
                ["ip", "link", "add", "link0", "netns", name, "type", "veth", "peer", f"side{index}", "netns", MIDDLE],
                check=True,
            )
            for command in (
                f"ip addr add 10.77.0.{index + 1}/24 dev link0",
                "ip link set link0 up",
                "ip link set lo up",
                "ip route add 224.0.0.0/4 dev link0",
            ):
                subprocess.run([*host, *command.split()], check=True)
            subprocess.run(["ip", "netns", "exec", MIDDLE, "ip", "link", "set", f"side{index}", "up"], check=True)
        wire = subprocess.Popen(["ip", "netns", "exec", MIDDLE, sys.executable, __file__, str(control)])
        try:
            yield ["ip", "netns", "exec", A], ["ip", "netns", "exec", B]
        finally:
            wire.kill()
            wire.wait()
    finally:
        for name in (A, B, MIDDLE):
            subprocess.run(["ip", "netns", "del", name], check=False)


def forward(control: Path) -> None:
    """Be the wire between side0 and side1."""
    sides = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) for _ in range(2)]
    for index, side in enumerate(sides):
        side.bind((f"side{index}", 0))
    waiting: list[tuple[float, int, int, bytes]] = []
    count, read_s, delay_s, loss = 0, 0.0, 0.0, 0.0
    while True:
        now_s = time.monotonic()
        if now_s - read_s > 0.02:
            delay_s, loss = (float(value) for value in (control.read_text() or "0 0").split())
            read_s = now_s
        until_s = min(0.01, max(0.0, waiting[0][0] - now_s)) if waiting else 0.01
        for side in select.select(sides, [], [], until_s)[0]:
            frame, address = side.recvfrom(65536)
            if address[2] != socket.PACKET_OUTGOING and random.random() >= loss:
                count += 1
                heapq.heappush(
                    waiting, (time.monotonic() + delay_s, count, 1 - sides.index(side), _without_checksum(frame))
                )
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, target, frame = heapq.heappop(waiting)
            with contextlib.suppress(OSError):  # larger than the link takes
                sides[target].send(frame)


def _without_checksum(frame: bytes) -> bytes:
    """Zero the checksum of a UDP datagram, which means "none": the kernel leaves it to a card that is not there."""
    ipv4, udp = frame[12:14] == b"\x08\x00", frame[23:24] == b"\x11"
    first_fragment = int.from_bytes(frame[20:22], "big") & 0x1FFF == 0
    if not (ipv4 and udp and first_fragment):
        return frame
    at = 14 + 4 * (frame[14] & 0x0F) + 6
    return frame[:at] + b"\0\0" + frame[at + 2 :]


if __name__ == "__main__":
    forward(Path(sys.argv[1]))
