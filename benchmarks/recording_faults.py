# SPDX-License-Identifier: Apache-2.0
"""Are planted contradictions between commanded and measured motion named, and none in healthy recordings?

Recordings are simulated arms of several rates (test/support/recorded_motions.py), the table-top arm's demonstrations
made in process, and bags, if given. Each fault is planted in each of the former on its own.

    python benchmarks/recording_faults.py --json benchmarks/results/recording_faults.json
    python benchmarks/recording_faults.py --bags bags/tabletop
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import figures
from tabletop_demonstrations import demonstrate

from vla_ros.contract import Camera, ObservationSpec, Timing
from vla_ros.datasets.agreement.agreement import Agreement, compare
from vla_ros.datasets.agreement.tracks import Track
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.sources import Source, load_source
from vla_ros.robot import load_robot
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.tasks import TRAINED_TASKS

sys.path.insert(0, str(Path(__file__).parents[1] / "test" / "support"))

from recorded_motions import FAULTY, HEALTHY, NAMES, faults, record

FIRST_SEED = 81_000
SPEC = ObservationSpec((Camera("static", 8, 8),), NAMES)
TABLETOP_HZ = (5.0, 10.0, 30.0)


def tabletop(rate_hz: float) -> list[Episode]:
    """Return one demonstration of each task."""
    env = TabletopEnv(control_hz=rate_hz)
    try:
        return [demonstrate(env, task, FIRST_SEED + index, SPEC) for index, task in enumerate(TRAINED_TASKS)]
    finally:
        env.close()


def compared(episodes: Sequence[Episode], rate_hz: float) -> Agreement:
    return compare([Track.of(episode, NAMES) for episode in episodes], 1 / rate_hz)


def named(agreement: Agreement) -> str:
    return ", ".join(dict.fromkeys(one.name for one in agreement.contradictions)) or "nothing"


def figure_of(agreement: Agreement) -> str:
    """Return correlation, gain and delay of the linear velocities."""
    part = agreement.motion.get("linear")
    if part is None or part.correlation is None:
        return "too little motion"
    gain = "-" if part.gain is None else f"{(part.gain[0] * part.gain[1]) ** 0.5:.3g}"
    return f"{part.correlation:.2f}, {gain}, {part.delay or 'not identifiable'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=3, help="episodes per recording (default: %(default)s)")
    parser.add_argument("--bags", nargs="+", help="healthy bags of the table-top arm, besides")
    parser.add_argument("--json", type=Path, help="results file")
    arguments = parser.parse_args()
    recordings = {
        name: ([record(arm, seed) for seed in range(arguments.each)], arm.rate_hz) for name, arm in HEALTHY.items()
    }
    recordings |= {f"table-top arm at {hz:g} Hz": (tabletop(hz), hz) for hz in TABLETOP_HZ}
    if arguments.bags:
        source = Source("the bags", "bags", arguments.bags, load_robot("tabletop"))
        recordings["bags at 10 Hz"] = (list(load_source(source, SPEC, Timing(10.0, 1, 1)).episodes), 10.0)
    rows = []
    for name, (episodes, rate_hz) in recordings.items():
        agreement = compared(episodes, rate_hz)
        rows.append(("nothing", name, named(agreement), figure_of(agreement)))
    for fault in faults(1.0):
        for name in FAULTY:
            episodes, rate_hz = recordings[name]
            wanted, plant = faults(rate_hz)[fault]
            agreement = compared([plant(episode) for episode in episodes], rate_hz)
            found = named(agreement)
            verdict = found if found == wanted else f"{found} (wanted: {wanted})"
            rows.append((fault, name, verdict, figure_of(agreement)))
    for row in rows:
        print("  ".join(f"{text:34}" for text in row), flush=True)
    right = sum(
        "wanted" not in found and (planted != "nothing") == (found != "nothing") for planted, _, found, _ in rows
    )
    print(f"{right} of {len(rows)} correct")
    if arguments.json:
        figures.write(
            arguments.json,
            title="Contradictions between commanded and measured motion",
            runs=arguments.each,
            note=f"{right} of {len(rows)} correct. Figures are of the linear velocities: correlation as recorded, "
            "measured over commanded velocity, delay.",
            columns=("planted", "recording", "named", "correlation, gain, delay"),
            rows=rows,
        )


if __name__ == "__main__":
    main()
