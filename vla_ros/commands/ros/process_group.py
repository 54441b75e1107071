# SPDX-License-Identifier: Apache-2.0
"""Start the processes of `vla_ros.bringup` without ROS's launch, monitor them, and stop them together.

A killed process leaves its middleware's segments in shared memory, which is RAM: they are noted while the process runs
and removed afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

import psutil

from vla_ros.bringup import NODES, Process
from vla_ros.errors import UserError

LOG_LINES = 15
PR_SET_PDEATHSIG = 1
# How long a process may take to exit after each signal: nodes first stop the arm and finalize their bag.
SIGNALS = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))

# It would take precedence over --enclave, and give each process the identity of the one that starts it.
ENCLAVE_VARIABLE = "ROS_SECURITY_ENCLAVE_OVERRIDE"

SHARED_MEMORY = Path("/dev/shm")
SEGMENT_PATTERNS = ("fastdds_*", "fastrtps_*", "sem.fast*")


class ProcessError(UserError):
    """A process exited unexpectedly."""


class ProcessGroup:
    """Processes that start and stop together. Use it in a `with` statement.

    Each logs to `folder`/NAME.log; without a folder, all print where this program prints.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._running: dict[str, tuple[Process, subprocess.Popen[bytes]]] = {}
        self._segments: set[str] = set()
        self._on_exit = contextlib.ExitStack()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def start(self, *processes: Process) -> None:
        """Start processes, each in its own SROS 2 enclave; their names must be unique within the group."""
        inherited = {name: value for name, value in os.environ.items() if name != ENCLAVE_VARIABLE}
        for process in processes:
            with contextlib.nullcontext() if self._folder is None else self.log(process.name).open("wb") as log:
                # In its own session: Ctrl-C reaches only this program, which then stops the others in order.
                popen = subprocess.Popen(
                    [sys.executable, "-m", NODES[process.executable], *process.ros_arguments()],
                    env={**inherited, **process.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=None if log is None else subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_exit_with_parent,
                )
            self._running[process.name] = (process, popen)

    def log(self, name: str) -> Path:
        """Return the log file of a process."""
        assert self._folder is not None, "without a folder, there are no log files"
        return self._folder / f"{name}.log"

    def exited(self) -> list[tuple[str, int]]:
        """Return the name and exit status of every process that has exited, other than those that are done."""
        polled = [(name, process, popen.poll()) for name, (process, popen) in self._running.items()]
        return [(name, status) for name, process, status in polled if status or (status == 0 and not process.ends)]

    def check(self) -> None:
        """Raise ProcessError with the end of its log if a process has exited, other than one that is done."""
        for name, status in self.exited():
            tail = "\n  ".join(self.log(name).read_text(errors="replace").splitlines()[-LOG_LINES:])
            raise ProcessError(f"{name} exited with status {status}; the end of {self.log(name)}:\n  {tail}")

    def ended(self, name: str) -> bool:
        """Return whether a process that exits by itself has finished; see `check` for failures."""
        self.check()
        return self._running[name][1].poll() is not None

    def stop(self, *names: str) -> None:
        """Stop processes (default: all), the last started first, escalating from SIGINT to SIGKILL."""
        for name in reversed(names or tuple(self._running)):
            _, popen = self._running.pop(name)
            self._segments |= shared_segments(popen.pid)
            for number, patience_s in SIGNALS:
                if popen.poll() is None:
                    popen.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    popen.wait(patience_s)
                    break

    def __enter__(self) -> ProcessGroup:
        if threading.current_thread() is threading.main_thread():
            # Treat SIGTERM like Ctrl-C, so that it leaves through `__exit__`.
            self._on_exit.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _interrupt))
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._on_exit.close()
        remove_segments(self._segments)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _exit_with_parent() -> None:
    """In a new process: get SIGTERM when the parent dies, for whatever reason (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def shared_segments(*process_ids: int) -> set[str]:
    """Return the names of the middleware's shared-memory segments that these processes have mapped."""
    names: set[str] = set()
    for process_id in process_ids:
        with contextlib.suppress(psutil.Error):  # it has exited, or belongs to another user
            paths = (Path(mapped.path) for mapped in psutil.Process(process_id).memory_maps())
            names |= {_segment(path.name) for path in paths if path.match(f"{SHARED_MEMORY}/fast*")}
    return names


def remove_segments(names: set[str]) -> None:
    """Remove shared-memory segments with their locks and semaphores, unless a running process has them mapped."""
    unused = names - shared_segments(*psutil.pids()) if names else names
    for file in (file for pattern in SEGMENT_PATTERNS for file in SHARED_MEMORY.glob(pattern)):
        if _segment(file.name) in unused:
            with contextlib.suppress(OSError):
                file.unlink()


def _segment(name: str) -> str:
    """Return the segment a file holds or locks (`NAME_el`, `sem.NAME_mutex`)."""
    return name.removeprefix("sem.").removesuffix("_mutex").removesuffix("_el")
