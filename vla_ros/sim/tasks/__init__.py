# SPDX-License-Identifier: Apache-2.0
"""The language tasks of the simulated arm, one file per kind.

To add a task, write its file and append its class to `KINDS`. Seeds of scenes and recordings depend on the order.
"""

from __future__ import annotations

from collections.abc import Sequence

from vla_ros.errors import UserError
from vla_ros.sim.tasks.drawer import CloseDrawer, OpenDrawer
from vla_ros.sim.tasks.nudge_lit import NudgeLit
from vla_ros.sim.tasks.pick_up import PickUp
from vla_ros.sim.tasks.push import PushAway, PushLeft, PushRight
from vla_ros.sim.tasks.put_in_box import PutInBox
from vla_ros.sim.tasks.task import Task

KINDS: tuple[type[Task], ...] = (PickUp, PushLeft, PushRight, PushAway, PutInBox, OpenDrawer, CloseDrawer, NudgeLit)
TASKS = {task.name: task for kind in KINDS for task in kind.variants()}
TRAINED_TASKS = tuple(name for name, task in TASKS.items() if task.role == "trained")


def task_names(names: Sequence[str]) -> list[str]:
    """Return the names given, or the trained tasks for ["all"]."""
    if list(names) == ["all"]:
        return list(TRAINED_TASKS)
    for name in names:
        if name not in TASKS:
            raise UserError(f"unknown task {name!r}; must be all, or any of {', '.join(TASKS)}")
    return list(names)
