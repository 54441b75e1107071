# SPDX-License-Identifier: Apache-2.0
"""Run steps of RoboVLMs' own code; `policy_step.py` starts this script in an environment that meets its requirements.

    python upstream.py CHECKOUT FOLDER

CHECKOUT is an unmodified clone of github.com/Robot-VLAs/RoboVLMs. Only the modules that a step needs are imported, as
the others require data sets and simulators; its patched `modeling_kosmos2.py` replaces the one of transformers 4.37.2
as in its evaluation, and a module needed only by another loss is stubbed. FOLDER holds `config.json` (of KosMos-2),
`robovlms.json` (its config), `ids.json` (tokens of a prompt) and `frames.npy` (T, cameras, h, w, 3) uint8, static
camera first.

Reads commands from stdin, one JSON list each, and answers each with a line of JSON:

    ["build", mode, W]     a policy with a window of W frames ("post" or "pre"); the weights go to FOLDER/weights.pt
    ["outputs"]            the chunk (N, 7) of each frame in turn, arm and gripper logit, from an empty history
    ["time", n]            milliseconds per step, over n further steps
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import time
import types
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Steps:
    """An upstream policy and its history."""

    def __init__(self, model: Any, mode: str, window: int, folder: Path) -> None:
        self.model, self.mode = model, mode
        self.ids = torch.tensor([json.loads((folder / "ids.json").read_text())])
        self.frames = np.load(folder / "frames.npy")
        self.statistics = [torch.tensor(values)[:, None, None] for values in (MEAN, STD)]
        self.queue: deque[list[torch.Tensor]] = deque(maxlen=window)
        self.index = 0

    def reset(self) -> None:
        self.model.act_head.reset()
        self.queue.clear()
        self.index = 0

    @torch.no_grad()
    def step(self) -> torch.Tensor:
        """Return the chunk (N, 7) of the next frame, like its wrapper without resizing and tokenizing."""
        frame = torch.from_numpy(self.frames[self.index % len(self.frames)])
        self.index += 1
        mean, std = self.statistics
        images = [((picture.permute(2, 0, 1) / 255 - mean) / std)[None, None] for picture in frame]
        if self.mode == "pre":
            self.queue.append(images)
            images = [torch.cat(views, dim=1) for views in zip(*self.queue, strict=True)]
        mask = torch.ones_like(self.ids, dtype=torch.bool)
        arm, gripper = self.model.inference(images[0], self.ids, mask, vision_gripper=images[1])["action"]
        return torch.cat([arm, gripper], dim=-1)[0, -1]


def prepare(checkout: Path) -> Any:
    """Make the module of the base class importable and return it."""
    import transformers.models.kosmos2 as package

    sys.path.insert(0, str(checkout))
    sys.modules["open_clip"] = types.ModuleType("open_clip")
    for name in ("robovlms", "robovlms.model", "robovlms.model.backbone", "robovlms.data"):
        module = types.ModuleType(name)
        module.__path__ = [str(checkout / name.replace(".", "/"))]
        sys.modules[name] = module
    name = f"{package.__name__}.modeling_kosmos2"
    spec = importlib.util.spec_from_file_location(name, checkout / "tools" / "modeling_kosmos2.py")
    assert spec is not None and spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return importlib.import_module("robovlms.model.backbone.base_backbone")


def build(base: Any, folder: Path, mode: str, window: int) -> Any:
    """Return the policy, with the same random weights for every mode and window."""
    from transformers import Kosmos2Config

    kosmos = importlib.import_module("robovlms.model.backbone.robokosmos")
    modeling = sys.modules["transformers.models.kosmos2.modeling_kosmos2"]
    config = json.loads((folder / "robovlms.json").read_text())
    config["vlm"] = {"pretrained_model_name_or_path": str(folder)}
    described = Kosmos2Config.from_dict(json.loads((folder / "config.json").read_text()))
    tokenizer = types.SimpleNamespace(bos_token="<s>", eos_token="</s>", pad_token="<pad>", vocab_size=100)
    network = modeling.Kosmos2ForConditionalGeneration(described)
    base.build_vlm = lambda *_: (types.SimpleNamespace(tokenizer=tokenizer), network)
    setup = {"precision": "32", "predict_action": True, "freeze_backbone": True, "train_vision": False}
    model = kosmos.RoboKosMos(
        configs=config,
        train_setup_configs={**setup, "lora_enable": False},
        act_head_configs={**config["act_head"], "history_type": mode},
        window_size=window,
        use_hand_rgb=True,
        fwd_pred_next_n=config["fwd_pred_next_n"],
    )
    draw_weights(model)
    return model.float().eval()


@torch.no_grad()
def draw_weights(model: torch.nn.Module) -> None:
    """Draw weights for which actions depend on the images; with the default initialisation they hardly do."""
    draw = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        weight.normal_(generator=draw)
        if weight.ndim > 1:
            weight *= 1.5 / weight[0].numel() ** 0.5
        elif name != "action_token":
            weight.mul_(0.1).add_(float(name.endswith("weight")))


def main() -> None:
    checkout, folder = map(Path, sys.argv[1:])
    answers = sys.stdout
    sys.stdout = io.StringIO()  # what its code prints is no answer
    torch.set_num_threads(1)
    base = prepare(checkout.resolve())
    steps: Steps | None = None
    for line in sys.stdin:
        command, *given = json.loads(line)
        answer: Any = True
        if command == "build":
            model = build(base, folder, *given)
            torch.save({"state_dict": model.state_dict()}, folder / "weights.pt")
            steps = Steps(model, *given, folder)
        assert steps is not None
        if command == "outputs":
            steps.reset()
            answer = [steps.step().tolist() for _ in steps.frames]
        elif command == "time":
            started_s = time.perf_counter()
            for _ in range(given[0]):
                steps.step()
            answer = 1e3 * (time.perf_counter() - started_s) / given[0]
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
