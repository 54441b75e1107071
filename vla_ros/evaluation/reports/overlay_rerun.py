# SPDX-License-Identifier: Apache-2.0
"""A replayed episode as a recording for the Rerun viewer (https://rerun.io; the extra `rerun`)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vla_ros.contract import ARM_AXES
from vla_ros.errors import UserError
from vla_ros.evaluation.reports.overlay import OverlayFrame


def write_rerun(file: Path, frames: Iterable[OverlayFrame], command: str) -> Path:
    """Write the frames as an .rrd file and return it: `rerun FILE` opens it.

    Raises:
        UserError: the file exists already, or rerun-sdk is not installed.
    """
    try:
        import rerun
    except ImportError:
        raise UserError("Rerun recordings need the package rerun-sdk: pip install 'vla_ros[rerun]'") from None
    if file.exists():
        raise UserError(f"{file} exists already and is not overwritten; name another folder, or move it")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    recording = rerun.RecordingStream("vla_ros")
    recording.save(partial)
    recording.log("command", rerun.TextDocument(command), static=True)
    for frame in frames:
        recording.set_time("time", timestamp=frame.time_ns / 1e9)
        for camera, rgb in frame.images.items():
            recording.log(f"camera/{camera}", rerun.Image(rgb))
        for axis, done, planned in zip((*ARM_AXES, "gripper"), frame.demonstrated, frame.planned, strict=True):
            recording.log(f"action/{axis}/demonstrated", rerun.Scalars(float(done)))
            recording.log(f"action/{axis}/planned", rerun.Scalars(float(planned)))
        if frame.pose is not None and frame.path is not None:
            position, quaternion = frame.pose[:3], rerun.Quaternion(xyzw=frame.pose[3:])
            recording.log("tool", rerun.Transform3D(translation=position, quaternion=quaternion))
            recording.log("plan", rerun.LineStrips3D([frame.path[:, :3]]))
    recording.flush()
    recording.disconnect()
    return partial.rename(file)
