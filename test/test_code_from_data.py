# SPDX-License-Identifier: Apache-2.0
"""No code that a file names is run: every call that could is written so that it doesn't, or is listed here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / "vla_ros").rglob("*.py"), *(ROOT / "train").rglob("*.py")])
# Called name -> the keyword that makes it safe, and its value.
REQUIRED = {
    "from_pretrained": ("trust_remote_code", False),
    "from_config": ("trust_remote_code", False),
    "pipeline": ("trust_remote_code", False),
    "load_from_checkpoint": ("weights_only", True),
}
# What would run or import what its argument says -> where it may stand, and why it is safe there.
ONLY_IN = {
    "eval": (),
    "exec": (),
    "compile": (),
    "__import__": (),
    "get_class_from_dynamic_module": (),
    "import_module": (
        "vla_ros/cli.py",  # names of COMMANDS
        "vla_ros/nodes/common/qos.py",  # `package.msg`, checked against a pattern
    ),
    "instantiate": (),
}


def calls(tree: ast.Module) -> Iterator[tuple[str, str, ast.Call]]:
    """Yield what each call is made on ("" for a function), the name called, and the call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield ast.unparse(node.func.value), node.func.attr, node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield "", node.func.id, node


def problems(text: str, path: str) -> list[str]:
    """Return the calls of a module that could run code named by data."""
    found = []
    for owner, name, call in calls(ast.parse(text)):
        given = {word.arg: word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)}
        where = f"{path}:{call.lineno}: {owner}.{name}" if owner else f"{path}:{call.lineno}: {name}"
        keyword, value = REQUIRED.get(name, ("", None))
        if (owner, name) == ("torch", "load"):
            keyword, value = "weights_only", True
        if keyword and given.get(keyword) is not value:
            found.append(f"{where} needs {keyword}={value}")
        if given.get("trust_remote_code") or given.get("allow_pickle"):
            found.append(f"{where} lets a file run code")
        is_method = owner and name in ("eval", "compile")  # of a module, of torch
        if name in ONLY_IN and not is_method and path not in ONLY_IN[name]:
            found.append(f"{where} may not be called here")
    return found


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_call_runs_what_a_file_names(source: Path) -> None:
    assert problems(source.read_text(), str(source.relative_to(ROOT))) == []


@pytest.mark.parametrize(
    "planted",
    [
        "AutoModel.from_pretrained(name)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoConfig.from_pretrained(name, trust_remote_code=trusted)",
        "factory.from_config(config)",
        "transformers.AutoTokenizer.from_pretrained(name, use_fast=True)",
        "transformers.pipeline('text-generation', name)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "VLAModule.load_from_checkpoint(path)",
        "importlib.import_module(config['class'])",
        "eval(config['schedule'])",
        "hydra.utils.instantiate(config)",
    ],
)
def test_a_call_that_would_is_found(planted: str) -> None:
    assert len(problems(planted, "vla_ros/new.py")) >= 1
