"""The README and the page of results say what results/*.json say."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

import kshot
from kshot import recipes
from kshot.evidence import reached, read_all, standing, trained_by

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
choices, pictures, reproduced, tables = map(importlib.import_module, ("choices", "pictures", "reproduced", "tables"))
benchmark = importlib.import_module("evidence")
sys.path.pop(0)


def test_the_tables_are_those_of_the_results() -> None:
    pages = [page.read_text() for page in tables.PAGES]
    for page in pages:
        assert tables.filled(page) == page, "run `make tables`"
    for name in (*tables.TABLES, *tables.COLLECTED):
        assert sum(page.count(f"<!-- table: {name} -->") for page in pages) == 1, name


def test_every_result_stands_on_a_page() -> None:
    shown = {name.partition(":")[0] for name in tables.TABLES}
    for path in (ROOT / "results").glob("*.json"):
        if path.stem in shown:
            continue
        name = recipes.read(path.stem).name  # or it is of no recipe
        collected = "omniglot" if name.startswith("omniglot-") else name
        assert collected in tables.COLLECTED, f"{path.name} is in no table"


def test_a_changed_result_would_be_noticed() -> None:
    page = (ROOT / "docs" / "results.md").read_text()
    number = tables.error(json.loads((ROOT / "results" / "sinusoid.json").read_text())["rows"][1])
    assert number in page
    assert tables.filled(page.replace(number, "0.001")) == page


def test_a_choice_says_what_was_different_from_the_recipe_as_it_is_now() -> None:
    """Also where the recipe has changed since, or was measured again: then the row's other figures stay."""
    recipe = recipes.read("omniglot-5w1s-maml")
    same = {
        "recipe": recipe.name,
        "at test": ["eval_steps=5"],
        "episodes": 600,
        "date": "a day",
        "settings": trained_by(recipe.settings),
    }
    older = {**same, "settings": trained_by(recipe.changed("learner.rule.lr=0.3", "training.steps=9").settings)}
    figure = {"metric": "accuracy", "mean": 0.5, "interval": 0.01}
    rows: list[dict[str, object]] = []
    for row, name, mean in ((older, "b", 0.25), (same, "b", 0.5), (same, "a", 0.75), (same, "b", 0.125)):
        rows = choices.among(rows, {**row, "figures": {name: {**figure, "mean": mean}}})
    steps = f"{recipe.training['steps']:,}"
    text = tables.choices({"rows": rows}).splitlines()
    assert text[2] == f"The [recipe](../src/kshot/recipes/{recipe.name}.toml) has `learner.rule.lr=1.0`:"
    assert text[6:8] == [
        "| 9 | `learner.rule.lr=0.3`, `eval_steps=5` at test | 600 | 25.00 ± 1.00 |  |",
        f"| {steps} | `eval_steps=5` at test | 600 | 12.50 ± 1.00 | 75.00 ± 1.00 |",
    ]


def test_a_choice_is_trained_once_and_its_figures_gather_in_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for module in (choices, benchmark):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    name, changes = "sinusoid-maml-paper", ["training.steps=4", "training.validate_every=4", "evaluation.episodes=600"]
    given = ["choices.py", name, *(word for change in changes for word in ("--set", change))]
    for more in (("--figure", "10 points, 1 step"), ("--figure", "10 points, 5 steps"), ("--at-test", "eval_steps=2")):
        monkeypatch.setattr(sys, "argv", [*given, *more, "--figure", "10 points, 1 step"])
        choices.main()
    plain, with_two = json.loads((tmp_path / "choices.json").read_text())["rows"]
    assert set(plain["figures"]) == {"10 points, 1 step", "10 points, 5 steps"}
    assert with_two["at test"] == ["eval_steps=2"]
    (run,) = (tmp_path / "runs" / "choices").iterdir()  # all three are of it
    learner = kshot.load(run, eval_steps=1)
    again = kshot.evaluate(learner, recipes.read(name).tasks("test"), 600, choices.OTHER_SEED, curves=False)
    assert plain["figures"]["10 points, 1 step"]["mean"] == again.mean
    shown = tables.error(plain["figures"]["10 points, 1 step"], "mean")
    assert f"| 4 | `training.validate_every=4` | 600 | {shown} |" in tables.choices({"rows": [plain, with_two]})


def test_whatever_a_training_depends_on_is_a_difference() -> None:
    recipe = recipes.read("sinusoid-maml-paper")
    for change in ("tasks.shots=5", "training.lr=0.5", "learner.steps=2"):
        assert reproduced.different(recipe.changed(change).settings, recipe.settings) == [change]
    for change in ("tasks.test.shots=5", "evaluation.episodes=700"):
        assert not reproduced.different(recipe.changed(change).settings, recipe.settings)


def test_the_pictures_are_drawn_from_the_results() -> None:
    for name in pictures.PICTURES:
        if (result := ROOT / "results" / f"{name}.json").is_file():
            with Image.open(ROOT / "docs" / f"{name}.png") as picture:
                assert picture.text["rows"] == pictures.digest(json.loads(result.read_text())), "run `make tables`"


def test_a_result_that_misses_what_it_is_to_reach_says_so_on_its_page() -> None:
    page = (ROOT / "docs" / "results.md").read_text()
    for path in (ROOT / "results").glob("*.json"):
        result = json.loads(path.read_text())
        assert result.get("passed", True), path.name
        for x in result.get("summary", []):
            if not x.get("met", True):
                assert f"{x['share at 32 steps']:.3f} (target {x['target']:g}, missed)" in page
    for name, kept in read_all(ROOT / "results").items():
        now = standing(recipes.read(name), kept).kept
        for row in now.paper.rows:
            if reached(row, ours := now.ours(row.name)) is False:
                assert any(
                    f"`{name}`" in line and str(ours) in line and f"{row.target:g} ✗" in line
                    for line in page.splitlines()
                )
