# SPDX-License-Identifier: Apache-2.0
"""Compare the gripper's labels with its measured opening."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from vla_ros.datasets.agreement.corrections import GRIPPER, Array
from vla_ros.datasets.agreement.tracks import Contradiction, Track

NEVER_LABELLED, NEVER_MOVES = "gripper never labelled", "gripper never moves"

# Of the opening: what is a movement away from what the label says, and what is none at all.
_MOVED, _STILL = 0.25, 0.03
# How long an opening or a label must last to count: fingers need time, and a label at an episode's end shows nothing.
_LASTS_S, _TRAVEL_S = 0.4, 1.5
_OPPOSITE = -0.5  # correlation of labels and measured openings


@dataclasses.dataclass(frozen=True)
class GripperAgreement:
    """The ranges of label and measured opening over all tracks, in [0 closed, 1 open]."""

    labelled: tuple[float, float]
    measured: tuple[float, float]
    contradictions: tuple[Contradiction, ...] = ()


def compare_gripper(tracks: Sequence[Track], period_s: float) -> GripperAgreement | None:
    """Compare the tracks whose opening was measured; None if it never was."""
    pairs = [(one.actions[:, 6], one.openings) for one in tracks if one.openings is not None and len(one) > 1]
    if not pairs:
        return None
    labels, openings = (np.concatenate(one) for one in zip(*pairs))
    found: list[Contradiction] = []
    moves = [_leaves(label, opening, period_s) for label, opening in pairs if np.ptp(label) == 0]
    if np.ptp(labels) == 0 and any(moves):
        said = "open" if labels[0] > 0.5 else "closed"
        detail = f"the gripper is labelled {said} throughout, but its measured opening goes from "
        detail += f"{openings.max():.2f} to {openings.min():.2f} and stays there"
        found.append(Contradiction(NEVER_LABELLED, detail, clear=True))
    settled = [_settled(label, opening, period_s) for label, opening in pairs]
    changed, followed = (np.concatenate(one) for one in zip(*settled))
    if len(changed) and np.ptp(openings) < _STILL:
        detail = f"the gripper's label changes {len(changed)} times, but its measured opening stays at "
        detail += f"{np.median(openings):.2f}"
        found.append(Contradiction(NEVER_MOVES, detail, clear=False))
    elif len(changed) and float(np.mean(np.sign(changed) * followed)) < 0 and _correlation(pairs) < _OPPOSITE:
        detail = f"the gripper opens where its label closes (correlation {_correlation(pairs):.2f})"
        found.append(Contradiction(GRIPPER, detail, clear=True))
    return GripperAgreement(_range(labels), _range(openings), tuple(found))


def _leaves(label: Array, opening: Array, period_s: float) -> float:
    """Return how far the opening moves away from a constant label and stays; 0 if it only moves towards it."""
    count = max(1, round(_LASTS_S / period_s))
    if len(opening) < 2 * count:
        return 0.0
    off = np.abs(opening - label[0])
    lasting = np.lib.stride_tricks.sliding_window_view(off, count)
    after = lasting.min(axis=1)[count:]  # at least so far off, from a window on
    before = np.minimum.accumulate(lasting.max(axis=1))[: len(after)]  # at most so far off, some time before
    away = float((after - before).max(initial=0.0))
    return away if away > _MOVED else 0.0


def _settled(label: Array, opening: Array, period_s: float) -> tuple[Array, Array]:
    """Return each change of the label that lasts, and how far the opening has moved when the gripper had the time."""
    wait = max(1, round(_TRAVEL_S / period_s))
    at = np.flatnonzero(np.abs(np.diff(label)) > 0.5)
    lasting = [i for i in at if i + wait < len(label) and np.ptp(label[i + 1 : i + wait + 1]) == 0]
    return label[[i + 1 for i in lasting]] - label[lasting], opening[[i + wait for i in lasting]] - opening[lasting]


def _correlation(pairs: Sequence[tuple[Array, Array]]) -> float:
    labels, openings = (np.concatenate(one) for one in zip(*pairs))
    if np.ptp(labels) == 0 or np.ptp(openings) == 0:
        return 0.0
    return float(np.corrcoef(labels, openings)[0, 1])


def _range(values: Array) -> tuple[float, float]:
    return float(values.min()), float(values.max())
