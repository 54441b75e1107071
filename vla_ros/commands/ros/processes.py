# SPDX-License-Identifier: Apache-2.0
"""Start the processes of `vla_ros.bringup` without ROS's launch, watch them, and end them all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from vla_ros.bringup import NODES, Process
from vla_ros.commands.ros import shared_memory
from vla_ros.errors import UserError

LOG_LINES = 15
PR_SET_PDEATHSIG = 1
# How long a process may take to end after each signal: nodes stop the arm and complete their bag first.
SIGNALS = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


class ProcessError(UserError):
    """A process that ended when it should not have, with the end of its log."""


class ProcessGroup:
    """Processes that live and end together. Use it in a `with` statement; each logs to `folder/NAME.log`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[str, tuple[Process, subprocess.Popen[bytes]]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._old_handler: Any = None
        self._segments: set[str] = set()

    def start(self, *processes: Process) -> None:
        """Start each process; names are unique among those that run."""
        for process in processes:
            module = NODES[process.executable]
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
            self._segments |= shared_memory.mapped_by(popen.pid)
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
        self._segments |= shared_memory.mapped_by(popen.pid)
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
        shared_memory.remove(self._segments)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """In a new process: get SIGTERM when the parent dies, however it dies (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
