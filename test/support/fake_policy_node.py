# SPDX-License-Identifier: Apache-2.0
"""The real policy node in a process of its own, with a policy that does what the command says instead of a network.

Commands: `move V` (vx in m/s, gripper open), `grip O` (opening O), `flap` (open, closed in turn), `slow S` (S seconds
for each chunk), `alternate S` (the same; vx is 1 and 3 cm/s in turn), `hang`, `lock S` (holds Python's lock for S
seconds), `bug` (from now on every control tick raises), and what a network may do wrong: `nan`, `inf`, `fail`,
`memory`, `shape`. What follows the number is ignored.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import numpy as np

from vla_ros.contract import PolicyContract
from vla_ros.nodes.policy import loading, node
from vla_ros.nodes.policy.plan_publisher import PlanPublisher


class ObedientRunner:
    def __init__(self, contract: PolicyContract) -> None:
        self.contract = contract
        self.word, self.value = "move", 0.0
        self.chunks = 0

    def warm_up(self) -> float:
        return 0.0

    def clear_history(self) -> None: ...

    def reset(self, command: str) -> None:
        self.word = command.split()[0]
        number = re.search(r"-?[0-9.]+", command)
        self.value = float(number[0]) if number else 0.0

    def step(self, observation) -> np.ndarray:
        assert all(image.shape == (16, 16, 3) for image in observation.images.values())
        chunk = np.zeros((self.contract.timing.chunk, 7))
        chunk[:, 6] = 1.0
        if self.word == "move":
            chunk[:, 0] = self.value
        elif self.word == "grip":
            chunk[:, 6] = self.value
        elif self.word == "flap":
            self.chunks += 1
            chunk[:, 6] = self.chunks % 2
        elif self.word in ("nan", "inf"):
            chunk[0, 0] = float(self.word)
        elif self.word == "shape":
            return chunk[:, :5]
        elif self.word == "memory":
            raise MemoryError("CUDA out of memory")
        elif self.word == "hang":
            time.sleep(2.5)
        elif self.word == "slow":
            time.sleep(self.value)
            chunk[:, 0] = 0.05
        elif self.word == "alternate":
            time.sleep(self.value)
            self.chunks += 1
            chunk[:, 0] = 0.03 if self.chunks % 2 else 0.01
        elif self.word == "bug":
            PlanPublisher.remaining = None
        elif self.word == "lock":
            hold_lock(self.value)
        elif self.word == "fail":
            raise RuntimeError("the network is broken")
        return chunk


def hold_lock(seconds: float) -> None:
    """Compute in C without letting go of Python's lock, as a tokenizer or an extension may."""
    begun_s = time.perf_counter()
    sum(range(10**6))
    sum(range(int(1e6 * seconds / (time.perf_counter() - begun_s))))


def load_runner(checkpoint: str, *_: object, contract: PolicyContract) -> ObedientRunner:
    slow = Path(checkpoint) / "load_s"
    if slow.exists():  # a model that takes that long to load
        slow.with_name("loading").touch()
        time.sleep(float(slow.read_text()))
    return ObedientRunner(contract)


if __name__ == "__main__":
    loading.load_runner = load_runner
    sys.exit(node.main())
