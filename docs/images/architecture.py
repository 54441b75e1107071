# SPDX-License-Identifier: Apache-2.0
"""Draw architecture.svg: the control loop on top, the training loop below, the contract between them.

python docs/images/architecture.py        writes docs/images/architecture.svg
"""

from __future__ import annotations

from html import escape
from pathlib import Path

WIDTH, HEIGHT = 1040, 500
SIDE_X, SIDE_W = 24, 176  # the left column; the right one mirrors it
RIGHT_X = WIDTH - SIDE_X - SIDE_W
NODE_X, NODE_W = 230, 580  # both processes, and what stands below them
STAGE_W, STAGE_GAP, MARGIN = 113, 12, 10
PROCESS_W = 2 * (MARGIN + STAGE_W) + STAGE_GAP
PROCESS_X = [NODE_X, NODE_X + NODE_W - PROCESS_W]  # the policy's, the guard's
STAGE_X = [left + MARGIN + index * (STAGE_W + STAGE_GAP) for left in PROCESS_X for index in range(2)]
FIT_X = NODE_X + 292

# class: (attribute, light, dark)
COLORS = {
    ".page": ("fill", "#ffffff", "#0d1117"),
    ".group": ("fill", "#f4f6f9", "#161b22"),
    ".box": ("fill", "#ffffff", "#21262d"),
    ".policy": ("fill", "#dbe9ff", "#1c3a66"),
    ".safety": ("fill", "#ffe4d6", "#5a2d16"),
    ".contract": ("fill", "#e3f4e4", "#173d21"),
    ".box, .policy, .safety, .contract": ("stroke", "#8c96a3", "#6e7681"),
    ".group, .page": ("stroke", "#d5dae1", "#30363d"),
    "text": ("fill", "#1c2128", "#e6edf3"),
    ".small": ("fill", "#57606a", "#a9b3bf"),
    ".arrow": ("stroke", "#57606a", "#a9b3bf"),
    ".head": ("fill", "#57606a", "#a9b3bf"),
    ".bond": ("stroke", "#2f8a43", "#5fbf75"),
}


def style() -> str:
    """Return the style sheet; viewers that prefer a dark scheme get the dark colours."""
    light = " ".join(f"{name} {{ {attribute}: {color} }}" for name, (attribute, color, _) in COLORS.items())
    dark = " ".join(f"{name} {{ {attribute}: {color} }}" for name, (attribute, _, color) in COLORS.items())
    return f"""<style>
text {{ font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; text-anchor: middle }}
.title {{ font-weight: 600; font-size: 13px }} .small {{ font-size: 11.5px }}
.arrow {{ fill: none; stroke-width: 1.8 }} .bond {{ fill: none; stroke-width: 1.6; stroke-dasharray: 2 4 }}
{light}
@media (prefers-color-scheme: dark) {{ {dark} }}
</style>"""


def box(x: float, y: float, width: float, height: float, title: str, *lines: str, kind: str = "box") -> str:
    """Return a rounded box with a title and smaller lines, centred."""
    shape = f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="7"/>'
    middle = x + width / 2
    baseline = y + height / 2 + 5 - 8 * len(lines)
    texts = [f'<text class="title" x="{middle}" y="{baseline}">{escape(title)}</text>']
    texts += [
        f'<text class="small" x="{middle}" y="{baseline + 17 + 15 * index}">{escape(line)}</text>'
        for index, line in enumerate(lines)
    ]
    return "\n".join([shape, *texts])


def group(x: float, y: float, width: float, height: float, title: str) -> str:
    """Return a frame around boxes, with its name above them."""
    return (
        f'<rect class="group" x="{x}" y="{y}" width="{width}" height="{height}" rx="10"/>\n'
        f'<text class="title" x="{x + width / 2}" y="{y + 22}">{escape(title)}</text>'
    )


def line(*points: tuple[float, float], kind: str = "arrow", head: bool = True) -> str:
    """Return a polyline, with an arrowhead at its end."""
    (x0, y0), (x1, y1) = points[-2:]
    dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
    end = (x1 - 6 * dx, y1 - 6 * dy) if head else (x1, y1)
    path = " ".join(f"{x},{y}" for x, y in [*points[:-1], end])
    drawn = f'<polyline class="{kind}" points="{path}"/>'
    if head:
        corners = [(x1, y1), *((x1 - 8 * dx + side * dy, y1 - 8 * dy + side * dx) for side in (-4.5, 4.5))]
        drawn += f'<polygon class="head" points="{" ".join(f"{x},{y}" for x, y in corners)}"/>'
    return drawn


def label(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text class="small" x="{x}" y="{y}" style="text-anchor: {anchor}">{escape(text)}</text>'


def control_loop() -> list[str]:
    """Return what runs on the robot: inputs, the stages of policy and guard, and the guard's two outputs."""
    y, height = 92, 98
    middle = y + height / 2
    policy_end, guard_x = PROCESS_X[0] + PROCESS_W, PROCESS_X[1]
    people = guard_x + PROCESS_W / 2
    return [
        group(NODE_X, 56, PROCESS_W, 150, "policy process"),
        group(guard_x, 56, PROCESS_W, 150, "guard process"),
        label(people, 32, "emergency stops, deadman, takeover, tool pose"),
        line((people, 38), (people, 56)),
        box(SIDE_X, 56, SIDE_W, 44, "cameras", "static, wrist, ..."),
        box(SIDE_X, 109, SIDE_W, 44, "robot state", "tool pose, gripper"),
        box(SIDE_X, 162, SIDE_W, 44, "language command", "“pick up the red block”"),
        box(STAGE_X[0], y, STAGE_W, height, "observations", "one per control", "tick; the last W", "are the history"),
        box(STAGE_X[1], y, STAGE_W, height, "VLA policy", "backbone, head:", "a chunk of", "N actions",
            kind="policy"),
        box(STAGE_X[2], y, STAGE_W, height, "executor", "chunks to one", "action per tick,", "despite delays"),
        box(STAGE_X[3], y, STAGE_W, height, "governor", "limits and stops", "at 100 Hz,", "plausibility",
            kind="safety"),
        box(RIGHT_X, 72, SIDE_W, 52, "twist", "m/s and rad/s, base frame"),
        box(RIGHT_X, 138, SIDE_W, 52, "gripper", "0 closed, 1 open"),
        *(line((SIDE_X + SIDE_W, at), (NODE_X, at)) for at in (78, 131, 184)),
        *(line((left + STAGE_W, middle), (right, middle)) for left, right in (STAGE_X[:2], STAGE_X[2:])),
        line((policy_end, 118), (guard_x, 118)),
        label((policy_end + guard_x) / 2, 110, "plan"),
        line((policy_end, 168), (guard_x, 168)),
        label((policy_end + guard_x) / 2, 160, "heartbeat"),
        *(line((NODE_X + NODE_W, at), (RIGHT_X, at)) for at in (98, 164)),
    ]  # fmt: skip


def training_loop() -> list[str]:
    """Return what turns recordings into the next checkpoint, from right to left."""
    y, height = 352, 98
    middle = y + height / 2
    checkpoint_w, observations_x = 252, NODE_X + NODE_W - STAGE_W
    record_x, check_x = RIGHT_X + SIDE_W / 2, SIDE_X + SIDE_W
    return [
        box(SIDE_X, y, SIDE_W, height, "check", "vla replay: mismatches", "vla evaluate: success"),
        box(NODE_X, y, checkpoint_w, height, "checkpoint", "a folder: safetensors, contract.json;",
            "loads without pickle or remote code", kind="policy"),
        box(FIT_X, y, STAGE_W, height, "fine-tune", "vla fit,", "on GPUs", "or a CPU"),
        box(observations_x, y, STAGE_W, height, "observations", "made by the", "same code as", "on the robot"),
        box(RIGHT_X, y - 20, SIDE_W, 62, "bags", "demonstrations, corrections"),
        box(RIGHT_X, y + height - 42, SIDE_W, 62, "other data sets", "CALVIN, RLDS, LeRobot"),
        line((record_x, 190), (record_x, y - 20)),
        label(record_x - 10, 270, "ros2 bag record", "end"),
        line((RIGHT_X, y + 22), (observations_x + STAGE_W, y + 22)),
        line((RIGHT_X, y + height - 22), (observations_x + STAGE_W, y + height - 22)),
        line((observations_x, middle), (FIT_X + STAGE_W, middle)),
        line((FIT_X, middle), (NODE_X + checkpoint_w, middle)),
        line((NODE_X, middle), (check_x, middle)),
    ]  # fmt: skip


def contract() -> list[str]:
    """Return the contract, and what it ties together."""
    y, height, top, bottom = 242, 66, 190, 352
    middles = [x + STAGE_W / 2 for x in STAGE_X]
    return [
        line((middles[0], top), (middles[0], y), kind="bond", head=False),
        *(line((x, bottom), (x, y + height), kind="bond", head=False) for x in (FIT_X + STAGE_W / 2, middles[3])),
        line((middles[1], bottom), (middles[1], y + height), head=False),
        line((middles[1], y), (middles[1], top)),
        label(middles[1] - 10, 334, "launch", "end"),
        box(NODE_X, y, NODE_W, height, "policy contract",
            "cameras · timing · units · statistics · language · action and gripper conventions",
            "written by training, checked at every launch: a mismatch is refused", kind="contract"),
    ]  # fmt: skip


def svg() -> str:
    """Return the drawing."""
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="'
        "Cameras, robot state and a command go to the policy process, its plans and heartbeat to the guard process, "
        'which owns the arm; recorded bags fine-tune the policy; the contract ties both together">',
        style(),
        f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="12"/>',
        label(SIDE_X, 34, "on the robot", "start"),
        label(SIDE_X, HEIGHT - 22, "on the training machine, without ROS", "start"),
    ]
    return "\n".join([*head, *control_loop(), *training_loop(), *contract(), "</svg>"]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("architecture.svg").write_text(svg(), encoding="utf-8")
