# SPDX-License-Identifier: Apache-2.0
"""The same KosMos-2 with LSTM head in our code and in RoboVLMs' own, for `policy_step.py`: random weights, one prompt.

Their code runs in a separate process (`upstream.py`) that answers one request at a time, so that the two never compute
simultaneously.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from vla_ros.observations.observation import Observation
from vla_ros.policy.config import VlmConfig
from vla_ros.policy.policy import Policy
from vla_ros.policy.robovlms import PROMPT, Motion, import_policy, read_weights
from vla_ros.policy.robovlms_config import read_config

COMMAND, CHUNK, PX = "pick up the red block", 10, 96
WIDTH, LAYERS, LATENTS, HIDDEN, EXTRA_FRAMES = 192, 4, 16, 256, 4
KOSMOS = {
    "model_type": "kosmos-2",
    "text_config": {
        "embed_dim": WIDTH, "layers": LAYERS, "ffn_dim": 4 * WIDTH, "attention_heads": 4, "vocab_size": 64,
        "max_position_embeddings": 2048, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
        "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "layerdrop": 0.0,
    },
    "vision_config": {
        "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "image_size": PX, "patch_size": 16,
    },
    "latent_query_num": LATENTS,
}  # fmt: skip
ROBOVLMS = {
    "model": "kosmos", "fwd_pred_next_n": CHUNK, "use_hand_rgb": True, "image_size": PX,
    "act_head": {
        "type": "LSTMDecoder", "hidden_size": HIDDEN, "action_dim": 7, "down_sample": "none", "latent": 1,
        "fwd_pred_next_n": 1, "window_size": 1, "action_space": "continuous", "with_history": True,
        "history_type": "post",
    },
    "fwd_head": None, "use_vision_resampler": False, "tokenizer": {"type": "AutoProcessor", "max_text_len": 256},
    "norm_action": True, "norm_min": -0.65, "norm_max": 0.65,
}  # fmt: skip


class Upstream:
    """RoboVLMs' own code in a process; ends with it.

    Args:
        checkout: a clone of RoboVLMs.
        python: of an environment that can run it.
        folder: an empty one, for what the two share.
    """

    def __init__(self, checkout: Path, python: Path, folder: Path) -> None:
        self._folder = folder
        ids = _write_tokenizer(folder)
        (folder / "config.json").write_text(json.dumps(KOSMOS))
        (folder / "robovlms.json").write_text(json.dumps(ROBOVLMS))
        (folder / "ids.json").write_text(json.dumps(ids))
        script = [str(python), str(Path(__file__).with_name("upstream.py")), str(checkout), str(folder)]
        self._process = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def build(self, mode: str, window: int) -> tuple[Policy, list[Observation]]:
        """Build a policy there; return ours with its weights, and the W + 4 frames that both will see.

        Args:
            mode: of the history, as ours is called: policy_head or interleaved.
            window: W.
        """
        pictures = np.random.default_rng(0).integers(0, 256, (window + EXTRA_FRAMES, 2, PX, PX, 3), dtype=np.uint8)
        np.save(self._folder / "frames.npy", pictures)
        self._ask("build", {"policy_head": "post", "interleaved": "pre"}[mode], window)
        described = self._folder / "project.json"
        described.write_text(json.dumps({**ROBOVLMS, "window_size": window}))
        weights = read_weights(self._folder / "weights.pt")
        policy = import_policy(weights, read_config(described), str(self._folder), Motion(10.0, 0.6, 1.5, "base"))
        if mode != "policy_head":  # which is all that can be imported: our order of the tokens is another one
            vlm: VlmConfig = dataclasses.replace(policy.config.vlm, layout="own", history_mode="interleaved")
            other = Policy(policy.contract, dataclasses.replace(policy.config, vlm=vlm), policy.tokenizer)
            other.load_state_dict(policy.state_dict())
            policy = other.eval()
        named = [dict(zip(("static", "wrist"), pair, strict=True)) for pair in pictures]
        return policy, [Observation(0, images, {}, None, COMMAND) for images in named]

    def outputs(self) -> NDArray[np.float64]:
        """Return the normalised chunks (W + 4, N, 7) for the frames in turn; the gripper's opening in [0, 1]."""
        chunks = np.array(self._ask("outputs"))
        chunks[..., 6] = 1 / (1 + np.exp(-chunks[..., 6]))
        return chunks

    def milliseconds(self, steps: int) -> float:
        """Return the milliseconds per step there, over ``steps`` steps."""
        return float(self._ask("time", steps))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _ask(self, *question: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("RoboVLMs' own code failed; see its message above")
        return json.loads(answer)


def _write_tokenizer(folder: Path) -> list[int]:
    """Write a tokenizer that knows the prompt's words; return the prompt's tokens as upstream has them."""
    prompt = PROMPT.replace("{command}", COMMAND)
    # "open" and "drawer" are what `import_policy` tries it with.
    words = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *prompt.split(), "open", "drawer"])
    words |= dict.fromkeys(f"word{index}" for index in range(64 - len(words)))
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("<s>", 0), ("</s>", 2)]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    return list(backend.encode(prompt).ids)
