"""Imports run downward only: a file uses what stands below it in this list, or beside it in its own folder."""

from __future__ import annotations

import ast
from pathlib import Path

SRC = Path(__file__).parent.parent / "src" / "kshot"
# From the top of the house to its foundation. New folders of the design find their place here.
LAYERS = [
    "__main__",
    "__init__",
    "cli",
    "report",
    "doctor",
    "evidence",
    "recipes",
    "rl",
    "optimizers",
    "bilevel",
    "training",
    "evaluation",
    "audit",
    "settings",
    "tasks",
    "models",
    "learners",
    "vectorize",
    "compiled",
    "inner",
    "hypergradients",
    "rules",
    "recurrent",
    "functional",
    "learner",
    "atomic",
    "intervals",
    "machine",
    "memory",
    "warps",
    "types",
    "version",
]


def layer(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The layers of kshot that a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            if node.module == "kshot":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("kshot."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("kshot.")}
    return found


def test_every_file_stands_in_a_layer() -> None:
    assert {layer(p) for p in SRC.rglob("*.py")} <= set(LAYERS)


def test_imports_run_downward() -> None:
    upward = [
        f"{path.relative_to(SRC)} imports {other}"
        for path in SRC.rglob("*.py")
        for other in imported(path)
        if other != layer(path) and LAYERS.index(other) < LAYERS.index(layer(path))
    ]
    assert not upward, upward


def test_no_file_with_a_name_that_explains_nothing() -> None:
    assert not [p for p in SRC.rglob("*.py") if p.stem in {"utils", "helpers", "misc", "common"}]
