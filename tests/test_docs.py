"""The documentation is run: each page from top to bottom, in one namespace and in an empty folder of its own.

A ```python block is executed. A ```console block whose first line begins `$ kshot` has its commands run; the output that
it shows must be among theirs (… stands for anything), and where it shows `error:` the command must fail.
HTML comments before a block change that:

    <!-- needs: KSHOT_DATA -->     run only where the environment variable (capitals) or the module (small letters) exists
    <!-- no-run: why -->           shown only
    <!-- file: own.toml -->        the block is written to this file first, for those after it
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import kshot
from kshot.cli import app
from kshot.learners import FAMILIES, LEARNERS
from kshot.models import MODELS
from kshot.rl import ENVIRONMENTS
from kshot.rules import RULES
from kshot.settings import arguments
from kshot.tasks import SOURCES
from kshot.training.options import Training

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [page for page in (*sorted(DOCS.glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md") if page.is_file()]
MARKS = {"needs", "no-run", "file"}


@dataclass
class Block:
    """line: of its first line of code, counted from 1."""

    language: str
    line: int
    code: str = ""
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        """Whether it is of a kind that is run."""
        return self.language == "python" or (self.language == "console" and self.code.startswith("$ kshot"))


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, each with the marks that stand before it."""
    marks: dict[str, str] = {}
    block: Block | None = None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if block is not None:
            if line == "```":
                yield block
                block = None
            else:
                block.code += f"{line}\n"
        elif line.startswith("```"):
            block, marks = Block(line[3:].strip(), number + 1, marks=marks), {}
        elif mark := re.fullmatch(r"<!-- ([\w-]+): (.+) -->", line):
            marks[mark[1]] = mark[2]
        elif line.strip():
            marks = {}
    assert block is None, f"{page.name}: the block at line {block and block.line} has no end"


def present(need: str) -> bool:
    return need in os.environ if need.isupper() else importlib.util.find_spec(need) is not None


@pytest.fixture
def _own_folder_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    tables: tuple[dict[str, Any], ...] = (LEARNERS, MODELS, RULES, SOURCES)
    before = [dict(table) for table in tables]
    yield
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)


@pytest.mark.usefixtures("_own_folder_and_tables")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(f"page_{page.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    torch.manual_seed(0)
    for block in blocks(page):
        if "file" in block.marks:
            Path(block.marks["file"]).parent.mkdir(parents=True, exist_ok=True)
            Path(block.marks["file"]).write_text(block.code)
        if not block.runs or "no-run" in block.marks or not present(block.marks.get("needs", "os")):
            continue
        if block.language == "python":
            padded = "\n" * (block.line - 1) + block.code  # so that a traceback names the line of the page
            exec(compile(padded, str(page), "exec", dont_inherit=True), vars(module))
        else:
            run_console(block, f"{page.name}:{block.line}")


def run_console(block: Block, where: str) -> None:
    output, shown, code = "", [], 0
    for line in block.code.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            words = shlex.split(line[2:], comments=True)
            assert words[0] == "kshot", f"{where}: {line} is not a kshot command: give it a block of its own"
            result = CliRunner().invoke(app, words[1:])
            assert result.exception is None or isinstance(result.exception, SystemExit), (
                f"{where}: {result.exception!r}"
            )
            output, code = output + result.output, max(code, result.exit_code)
        elif line.strip():
            shown.append(line)
    fails = any(line.startswith("error:") for line in shown)
    assert (code != 0) == fails, f"{where} ended with {code}:\n{output}"
    for line in shown:
        parts = [r"\s+".join(map(re.escape, part.split())) for part in line.split("…")]
        assert re.search(r"\s*.*?\s*".join(parts), output), f"{where} shows\n{line}\nand the command printed\n{output}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_marks_say_what_and_why(page: Path) -> None:
    for block in blocks(page):
        assert set(block.marks) <= MARKS, f"{page.name}:{block.line} has an unknown mark"
        if "no-run" in block.marks:
            assert block.runs, f"{page.name}:{block.line} would not run anyway"
            assert len(block.marks["no-run"]) > 10, f"{page.name}:{block.line} must say why it is not run"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):  # https:
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(there), (
            f"{page.name} links to {target}, and {there.name} has no such title"
        )


def anchors(page: Path) -> set[str]:
    """GitHub's names for the titles of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_on_the_map() -> None:
    text = (DOCS / "index.md").read_text()
    assert [page.name for page in DOCS.glob("*.md") if page.name != "index.md" and f"({page.name})" not in text] == []


# What the code has, the pages name: as `name` or **name**.


def named(text: str) -> set[str]:
    return {word for span in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"[\w.*-]+", span)}


def test_every_row_of_the_tables_is_documented() -> None:
    words = named("\n".join(page.read_text() for page in DOCS.glob("*.md")))
    for table in (LEARNERS, MODELS, RULES, SOURCES, ENVIRONMENTS):
        assert {name for name in table if name not in words} == set()


OPTIONS: dict[str, list[Callable[..., Any]]] = {
    "tasks.md": [
        kshot.tasks.Episodes,
        kshot.tasks.Sinusoids,
        kshot.tasks.LinearRegressions,
        kshot.tasks.Glyphs,
        kshot.tasks.Intents,
        kshot.tasks.from_folder,
        kshot.tasks.from_csv,
        kshot.tasks.from_jsonl,
        kshot.tasks.from_dataset,
        kshot.tasks.from_transforms,
        *kshot.tasks.transforms.Transform.__subclasses__(),
    ],
    "command-line.md": [SOURCES["own"]],
    "training.md": [kshot.fit, Training],
    "evaluation.md": [kshot.evaluate, kshot.Evaluation],
    "doctor.md": [kshot.diagnose],
    "learners-gradient.md": [*FAMILIES["gradient"].values()],
    "rules.md": [*RULES.values()],
    "learners-metric.md": [*FAMILIES["metric"].values(), kshot.NearestCentroid],
    "learners-in-context.md": [*FAMILIES["in-context"].values()],
    "baselines.md": [kshot.Finetune, kshot.MultiTask, kshot.Scratch],
    "agents.md": [
        kshot.PolicyMAML,
        kshot.models.GaussianPolicy,
        *ENVIRONMENTS.values(),
        kshot.rl.fit,
        kshot.rl.evaluate,
    ],
    "models.md": [
        kshot.models.MLP,
        kshot.models.Conv4,
        kshot.models.ResNet12,
        kshot.models.ConvRelation,
        kshot.models.HashedText,
        kshot.models.Views,
    ],
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_documented(name: str) -> None:
    words = named((DOCS / name).read_text())
    for target in OPTIONS[name]:
        options = set(arguments(target)) - {"settings", "options", "data", "split"}
        assert options - words == set(), f"{name} does not name these options of {inspect.unwrap(target).__name__}"


def test_every_command_is_documented() -> None:
    words = named((DOCS / "command-line.md").read_text())
    assert {c.name or c.callback.__name__ for c in app.registered_commands if c.callback} - words == set()
