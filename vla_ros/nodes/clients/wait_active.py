# SPDX-License-Identifier: Apache-2.0
"""Wait until nodes of this package are active: `python -m vla_ros.nodes.clients.wait_active /guard /policy`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence

from vla_ros.nodes.clients.monitor import listen

PERIOD_S = 0.2


def wait_active(names: Sequence[str]) -> None:
    """Return once each of the nodes `names` (absolute) has told that it is active."""
    active: set[str] = set()

    def on_state(name: str, _: str, values: Mapping[str, str]) -> None:
        if values.get("state") in ("unconfigured", "inactive"):
            active.discard(name)
        else:
            active.add(name)

    updates = listen(names, on_state, lambda *_: None, PERIOD_S)
    with contextlib.closing(updates):  # type: ignore[type-var]  # it is a generator, typed as the iterator it yields
        while active != set(names):
            next(updates)


def main(names: Sequence[str]) -> int:
    """Wait; return 0, or 1 after Ctrl-C."""
    try:
        wait_active(names)
    except KeyboardInterrupt:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
