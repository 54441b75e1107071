# SPDX-License-Identifier: Apache-2.0
"""Compare the arm's commanded twists with the measured motion of its tool, and name what explains a difference.

Frame, axes, units and delay are only named if the motion tells them apart: each axis must have moved, both ways of
explaining it must differ, and resampling the recording must not change the verdict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.agreement import corrections
from vla_ros.datasets.agreement.corrections import Array
from vla_ros.datasets.agreement.correlation import (
    SMOOTHING_S,
    Sums,
    peak_offset,
    spread_evenly,
    sum_products,
    twists_measured,
)
from vla_ros.datasets.agreement.tracks import Contradiction, Track

DELAY, NOT_COMMANDED, UNRELATED = "delay", "not commanded", "unrelated"

# An axis is judged if the tool moved so far along it, in an episode and within SMOOTHING_S (m, rad).
_FAR = {"linear": 0.02, "angular": 0.1}
_STEP = {"linear": 0.002, "angular": 0.01}
_MIN_ENERGY = 0.02  # of the axis that moved most
_MIN_S, _MIN_BLOCKS = 2.0, 8
# Delays that arms have. Beyond the second pair, labels are certainly those of other observations.
_USUAL_DELAY_S, _ODD_DELAY_S, _WRONG_DELAY_S = (-0.1, 0.35), (-0.1, 0.4), (-0.15, 0.5)
# Of the mean correlation: what makes another explanation better, and of several as good, the first counts.
_BETTER, _CERTAINLY_BETTER, _AS_GOOD = 0.3, 0.15, 0.03
_AXIS_FITS, _AXIS_BETTER = 0.6, 0.3  # correlation along each axis that an explanation changes
_FITS = 0.6  # mean correlation of an explanation, and of motion whose delay and scale can be told
_RESIDUAL, _RESIDUAL_SHARE = 0.1, 0.3  # unexplained energy as it is, and with another frame relative to that
_ANY = 0.45  # less mean correlation, for certain, is another motion
# Gains: an arm that yields or is pushed back moves less; beyond the second pair, it is another unit.
_ODD_GAIN, _WRONG_GAIN = (0.4, 2.5), (0.2, 5.0)
_IMPOSSIBLE_MPS = 3.0
_UNITS = {1000.0: "mm/s", 100.0: "cm/s", 180 / np.pi: "degrees/s"}
_SAME_UNIT = 0.2  # largest difference of the logarithms
_NEVER = {"linear": 1e-4, "angular": 1e-3}  # m/s, rad/s
_PEAK_S, _PEAK_DROP = 0.2, 0.02  # how far beside its peak the correlation must have dropped, and by how much


@dataclasses.dataclass(frozen=True)
class Delay:
    """How long after the commanded motion the measured one came, with its standard error; negative: before it."""

    delay_s: float
    error_s: float

    def __str__(self) -> str:
        return f"{1e3 * self.delay_s:.0f} +- {1e3 * self.error_s:.0f} ms"


@dataclasses.dataclass(frozen=True)
class PartAgreement:
    """The verdict on linear or angular velocities.

    Attributes:
        moved: Axes that moved enough to be judged.
        correlation: Mean over these, of commanded and measured velocities as recorded; None if nothing moved.
        gain: Bounds of measured over commanded velocity; None if they do not correlate.
        delay: None if it can't be told.
    """

    moved: tuple[str, ...] = ()
    correlation: float | None = None
    gain: tuple[float, float] | None = None
    delay: Delay | None = None
    contradictions: tuple[Contradiction, ...] = ()


def compare_motion(tracks: Sequence[Track], period_s: float) -> dict[str, PartAgreement]:
    """Compare the tracks that have poses; "linear" and "angular" each have a verdict."""
    tracks = spread_evenly([one for one in tracks if one.positions is not None and len(one) > 2])
    if not tracks:
        return {}
    found = {
        "linear": _compare("linear", slice(0, 3), tracks, period_s),
        "angular": _compare("angular", slice(3, 6), tracks, period_s),
    }
    if any(one.clear for part in found.values() for one in part.contradictions):  # which explains the other part, too
        for name, part in found.items():
            rest = tuple(one for one in part.contradictions if one.name != UNRELATED)
            found[name] = dataclasses.replace(part, contradictions=rest)
    return found


@dataclasses.dataclass(frozen=True)
class _Explanation:
    """Version `version` of the commanded twists, with its axes exchanged and inverted, is what was measured."""

    name: str
    detail: str
    version: int
    order: tuple[int, ...] = (0, 1, 2)
    signs: tuple[int, ...] = (1, 1, 1)

    def along(self, matrices: Array) -> Array:
        """Return the entry for each measured axis (..., L, 3) of matrices (..., F, L, 3, 3)."""
        one = matrices[..., self.version, :, :, :]
        return np.stack([sign * one[..., i, j] for i, (j, sign) in enumerate(zip(self.order, self.signs))], axis=-1)

    def residual(self, sums: Sums) -> Array:
        """Return the share (L,) of the measured energy that is not explained, at the best scale."""
        common = np.maximum(self.along(sums.products.sum(axis=0)).sum(axis=-1), 0.0)
        m, c = (one.sum(axis=0)[self.version].sum(axis=-1) for one in (sums.measured, sums.commanded))
        return np.asarray(1 - common**2 / np.maximum(m * c, 1e-300))


def _explanations(part: str) -> tuple[list[corrections.Correction | None], list[_Explanation]]:
    """Return the versions of the commanded twists, and the explanations, the simplest first."""
    versions: list[corrections.Correction | None] = [None, *corrections.frame_corrections()]
    if part == "angular":
        versions.append(corrections.euler_correction())
    found = [_Explanation("", "", 0)]
    found += [_Explanation(one.name, one.where, index) for index, one in enumerate(versions) if one is not None]
    found += [
        _Explanation(corrections.SWAPPED_AXES, detail, 0, order, signs)
        for order, signs, detail in corrections.signed_permutations()[1:]
    ]
    return versions, found


def _compare(part: str, columns: slice, tracks: Sequence[Track], period_s: float) -> PartAgreement:
    moved = _moved(part, columns, tracks, period_s)
    versions, explanations = _explanations(part)
    sums = sum_products(tracks, period_s, versions, columns)
    if not moved.any() or sums.frames * period_s < _MIN_S:
        return PartAgreement()
    names = tuple(axis for axis, one in zip("xyz", moved) if one)
    if (never := _never_commanded(part, tracks, columns, period_s)) is not None:
        return PartAgreement(names, 0.0, contradictions=(never,))
    chosen, found = _explain(part, sums, explanations, moved, period_s)
    correlations = sums.correlations()
    correlation = float(explanations[0].along(correlations)[:, moved].mean(axis=-1).max())
    along = chosen.along(correlations)[:, moved].mean(axis=-1)  # (L,)
    best = int(along.argmax())
    if along[best] < _FITS:
        found += [] if found else _unrelated(part, sums, chosen, moved)
        return PartAgreement(names, correlation, contradictions=tuple(found))
    delay = _delay(sums, chosen, moved)
    gain = _gain(sums, chosen, moved & (chosen.along(correlations)[best] > _FITS), best)
    found += [*_late(part, delay), *_scaled(part, gain, tracks, columns, period_s)]
    return PartAgreement(names, correlation, gain, delay, tuple(found))


def _moved(part: str, columns: slice, tracks: Sequence[Track], period_s: float) -> NDArray[np.bool_]:
    """Return along which axes (3,) the tool moved far enough to be judged."""
    far, energy, frames = np.zeros(3), np.zeros(3), 0
    width = max(1, round(SMOOTHING_S / period_s))
    for track in tracks:
        steps = twists_measured(track, period_s)[:, columns] * period_s
        path = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
        far = np.maximum(far, np.ptp(path, axis=0))
        energy, frames = energy + ((path[width:] - path[:-width]) ** 2).sum(axis=0), frames + len(path[width:])
    rms = np.sqrt(energy / max(frames, 1))
    return np.asarray((far >= _FAR[part]) & (rms >= _STEP[part]) & (rms**2 >= _MIN_ENERGY * (rms**2).max()))


def _explain(
    part: str, sums: Sums, explanations: Sequence[_Explanation], moved: NDArray[np.bool_], period_s: float
) -> tuple[_Explanation, list[Contradiction]]:
    """Return what explains the measured motion, and the contradiction if that is not the commanded twists as they are.

    The delay is one that arms have, so that half a swing is not an inverted axis.
    """
    usual = (sums.delays_s >= _USUAL_DELAY_S[0] - period_s / 2) & (sums.delays_s <= _USUAL_DELAY_S[1] + period_s / 2)
    correlations, as_is = sums.correlations(), explanations[0]
    scores = [float(one.along(correlations)[usual][:, moved].mean(axis=-1).max()) for one in explanations]
    late = float(as_is.along(correlations)[:, moved].mean(axis=-1).max())
    if late >= max(scores) - _AS_GOOD:
        scores[0] = late
    best = next(index for index, score in enumerate(scores) if score >= max(scores) - _AS_GOOD)
    if not _is_better(sums, explanations[best], as_is, moved, usual):
        # The wrong frame may hardly turn the twists, and leave each axis alike.
        frames = [index for index, one in enumerate(explanations) if one.version]
        left = {index: float(explanations[index].residual(sums)[usual].min()) for index in frames}
        remaining = float(as_is.residual(sums).min())
        best = min(frames, key=lambda index: left[index])
        if remaining < _RESIDUAL or left[best] > _RESIDUAL_SHARE * remaining or scores[best] < scores[0]:
            return as_is, []
    chosen = explanations[best]
    others = {one.name: one for one, score in zip(explanations, scores) if score >= scores[best] - _AS_GOOD}
    also = [f"{one.name} ({one.detail})" for name, one in others.items() if name not in ("", chosen.name)]
    detail = f"{part} velocities: {chosen.detail}; correlation with the measured motion {scores[0]:.2f} as recorded, "
    detail += f"{scores[best]:.2f} with that undone" + (f"; or {'; '.join(also)}" if also else "")
    return chosen, [Contradiction(chosen.name, detail, clear=True)]


def _is_better(
    sums: Sums, chosen: _Explanation, as_is: _Explanation, moved: NDArray[np.bool_], usual: NDArray[np.bool_]
) -> bool:
    """Return whether an explanation is certainly better, on the whole and along each axis that it changes."""
    one, other = (each.along(sums.correlations())[usual][:, moved] for each in (chosen, as_is))
    delay = one.mean(axis=-1).argmax()
    fits, before = one[delay], other[delay]
    changed = np.abs(fits - before) > _AS_GOOD
    if fits.mean() - before.mean() < _BETTER or not changed.any():
        return False
    if moved.sum() < 2 and chosen.order != as_is.order:  # an arm held along one axis may slip along another
        return False
    if not ((fits > _AXIS_FITS) & (fits - before > _AXIS_BETTER))[changed].all():
        return False
    drawn = sums.correlations(sums.resamples())
    one, other = (each.along(drawn)[:, usual][..., moved].mean(axis=-1).max(axis=-1) for each in (chosen, as_is))
    return bool(np.quantile(one - other, 0.01) > _CERTAINLY_BETTER)


def _never_commanded(part: str, tracks: Sequence[Track], columns: slice, period_s: float) -> Contradiction | None:
    """Return the contradiction of a tool that moves although no motion was commanded."""
    commanded = np.concatenate([track.actions[:-1, columns] for track in tracks])
    measured = np.concatenate([twists_measured(track, period_s)[:, columns] for track in tracks])
    if np.sqrt((commanded**2).mean()) > _NEVER[part]:
        return None
    unit = "m" if part == "linear" else "rad"
    path = float(np.linalg.norm(measured, axis=1).sum() * period_s)
    detail = f"{part} velocities: the tool moved {path:.2f} {unit} in all, but the commanded velocities are zero"
    # An arm that is driven by position alone may turn a little on its way.
    return Contradiction(NOT_COMMANDED, detail, clear=part == "linear")


def _unrelated(part: str, sums: Sums, as_is: _Explanation, moved: NDArray[np.bool_]) -> list[Contradiction]:
    """Return the contradiction of a tool that does something other than what was commanded, if that is certain."""
    drawn = as_is.along(sums.correlations(sums.resamples()))[..., moved].mean(axis=-1).max(axis=-1)
    if np.quantile(drawn, 0.99) > _ANY or len(sums.products) < _MIN_BLOCKS or moved.sum() < 2:
        return []
    highest = float(np.quantile(drawn, 0.99))
    detail = f"{part} velocities: they say nothing of the measured motion (correlation below {highest:.2f})"
    return [Contradiction(UNRELATED, detail, clear=False)]


def _delay(sums: Sums, chosen: _Explanation, moved: NDArray[np.bool_]) -> Delay | None:
    """Return the delay, if the correlation has one peak that is narrow enough and stays where it is."""
    curves = chosen.along(sums.correlations(sums.resamples()))[..., moved].mean(axis=-1)  # (draws, L)
    curve = chosen.along(sums.correlations())[:, moved].mean(axis=-1)
    best = int(curve.argmax())
    beside = np.abs(sums.delays_s - sums.delays_s[best]) >= _PEAK_S - 1e-9
    lower, upper = (beside & (sums.delays_s < sums.delays_s[best])), (beside & (sums.delays_s > sums.delays_s[best]))
    if not lower.any() or not upper.any() or curve[beside].max() > curve[best] - _PEAK_DROP:
        return None
    step_s = float(sums.delays_s[1] - sums.delays_s[0])
    peaks_s = [
        sums.delays_s[index] + step_s * peak_offset(one, index) for one in curves for index in [int(one.argmax())]
    ]
    error_s = float(max(np.std(peaks_s), step_s / 10))
    if error_s > _PEAK_S / 2:
        return None
    return Delay(float(sums.delays_s[best] + step_s * peak_offset(curve, best)), error_s)


def _late(part: str, delay: Delay | None) -> list[Contradiction]:
    if delay is None:
        return []
    low, high = delay.delay_s - 2 * delay.error_s, delay.delay_s + 2 * delay.error_s
    if high >= _ODD_DELAY_S[0] and low <= _ODD_DELAY_S[1]:
        return []
    when = "before the command" if delay.delay_s < 0 else "after the command"
    size = Delay(abs(delay.delay_s), delay.error_s)
    clear = high < _WRONG_DELAY_S[0] or low > _WRONG_DELAY_S[1]
    return [Contradiction(DELAY, f"{part} velocities: the tool moves {size} {when}", clear)]


def _gain(sums: Sums, chosen: _Explanation, axes: NDArray[np.bool_], best: int) -> tuple[float, float] | None:
    """Return bounds of measured over commanded velocity; what one of the two lacks, the other shows alone."""
    if not axes.any():
        return None
    common = chosen.along(sums.products.sum(axis=0))[best][axes].sum()
    commanded = sums.commanded.sum(axis=0)[chosen.version, best][list(chosen.order)][axes].sum()
    return float(common / commanded), float(sums.measured.sum(axis=0)[chosen.version, best][axes].sum() / common)


def _scaled(
    part: str, gain: tuple[float, float] | None, tracks: Sequence[Track], columns: slice, period_s: float
) -> list[Contradiction]:
    if gain is None or (gain[1] >= _ODD_GAIN[0] and gain[0] <= _ODD_GAIN[1]):
        return []
    middle = float(np.sqrt(gain[0] * gain[1]))
    speed, commanded = (
        float(np.quantile(np.abs(np.concatenate(values)), 0.95))
        for values in (
            [twists_measured(track, period_s)[:, columns] for track in tracks],
            [track.actions[:, columns] for track in tracks],
        )
    )
    unit = "m/s" if part == "linear" else "rad/s"
    times = f"{middle:.3g} times as fast" if middle > 1 else f"{1 / middle:.3g} times as slowly"
    detail = f"{part} velocities: the tool moves {times} as commanded (mostly below {speed:.3g} {unit}, commanded "
    detail += f"{commanded:.3g} {unit})"
    within = [text for factor, text in _UNITS.items() if abs(np.log(max(middle, 1 / middle) / factor)) < _SAME_UNIT]
    if part == "linear" and middle > 1 and speed > _IMPOSSIBLE_MPS:
        detail += ": is ee_pose in mm?"
    elif within and middle < 1:
        detail += f": are the twists in {within[0]}?"
    elif abs(np.log(middle * period_s)) < _SAME_UNIT or 4 < middle < 120:
        detail += f": are they per step of 1/{middle:.0f} s?"
    else:
        detail += ": other units, or a joystick's -1 to 1?"
    return [Contradiction(corrections.UNITS, detail, clear=gain[1] < _WRONG_GAIN[0] or gain[0] > _WRONG_GAIN[1])]
