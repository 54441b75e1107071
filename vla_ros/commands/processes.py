# SPDX-License-Identifier: Apache-2.0
"""Start the processes of `vla_ros.bringup` without ROS's launch, watch them, and end them all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from vla_ros.bringup import PACKAGE, Process
from vla_ros.errors import UserError

SHARED_MEMORY = Path("/dev/shm")
LOG_LINES = 15
PR_SET_PDEATHSIG = 1
# Domains whose UDP ports lie below the range that Linux gives to other programs; 0 is everybody's default.
DOMAIN_IDS = range(1, 102)
# How long a process may take to end after each signal: nodes stop the arm and complete their bag first.
SIGNALS = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


class ProcessError(UserError):
    """A process that ended when it should not have, with the end of its log."""


def isolate() -> None:
    """Give this process and its children a ROS domain of their own on this machine, unless the user has chosen one."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.choice(DOMAIN_IDS)))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


class ProcessGroup:
    """Processes that live and end together. Use it in a `with` statement; each logs to `folder/NAME.log`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[str, tuple[Process, subprocess.Popen[bytes]]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._old_handler: Any = None
        self._shared_memory_before = _shared_memory_files()

    def start(self, *processes: Process) -> None:
        """Start each process; names are unique among those that run."""
        for process in processes:
            module = f"{PACKAGE}.nodes.{process.executable}"
            with self.log(process.name).open("wb") as log:
                # In a session of its own: Ctrl-C reaches this program alone, which then ends the others in order. And
                # they are not left alone when it is killed.
                popen = subprocess.Popen(
                    [sys.executable, "-m", module, *process.ros_arguments()],
                    env={**os.environ, **process.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_end_with_parent,
                )
            self._running[process.name] = (process, popen)

    def log(self, name: str) -> Path:
        """Where a process's output goes."""
        return self.folder / f"{name}.log"

    def check(self) -> None:
        """Make sure that all live, but for those that ended well as they should.

        Raises:
            ProcessError: one has ended; the message holds the end of its log.
        """
        for name, (process, popen) in self._running.items():
            status = popen.poll()
            if status is None or (process.ends and status == 0):
                continue
            lines = self.log(name).read_text(errors="replace").splitlines()[-LOG_LINES:]
            text = "\n  ".join(lines)
            raise ProcessError(f"{name} ended with status {status}; the end of {self.log(name)}:\n  {text}")

    def ended(self, name: str) -> bool:
        """Whether a process that ends by itself has ended (well: see `check`)."""
        self.check()
        return self._running[name][1].poll() is not None

    def stop(self, *names: str) -> None:
        """End the named processes (default: all), the last started first, gently before forcefully."""
        for name in reversed(names or tuple(self._running)):
            _, popen = self._running.pop(name)
            for number, patience_s in SIGNALS:
                if popen.poll() is None:
                    popen.send_signal(number)
                try:
                    popen.wait(patience_s)
                    break
                except subprocess.TimeoutExpired:
                    continue

    def kill(self, name: str) -> None:
        """End a process without asking it."""
        _, popen = self._running.pop(name)
        popen.kill()
        popen.wait()

    def __enter__(self) -> ProcessGroup:
        # SIGTERM as Ctrl-C: leave through `__exit__`.
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGTERM, _interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)
        remove_dead_shared_memory(self._shared_memory_before)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """In a new process: get SIGTERM when the parent dies, however it dies (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def remove_dead_shared_memory(before: set[Path]) -> None:
    """Remove what killed processes left in shared memory, which is RAM: files newer than `before` that nobody maps."""
    left = _shared_memory_files() - before
    if not left:
        return
    in_use = _mapped_names()
    for file in left:
        if file.name.removeprefix("sem.").removesuffix("_mutex").removesuffix("_el") not in in_use:
            file.unlink(missing_ok=True)


def _shared_memory_files() -> set[Path]:
    return {file for pattern in ("fastdds_*", "sem.fastdds_*") for file in SHARED_MEMORY.glob(pattern)}


def _mapped_names() -> set[str]:
    """Names of the shared-memory files that a running process maps."""
    names = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            lines = maps.read_text().splitlines()
        except OSError:  # it has just ended, or is another user's
            continue
        names |= {Path(line.split(maxsplit=5)[5]).name for line in lines if f" {SHARED_MEMORY}/" in line}
    return names
