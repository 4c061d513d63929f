"""The README and the page of results say what results/*.json say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from PIL import Image

from kshot import recipes

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
assert spec is not None
assert spec.loader is not None
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)


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
    number = json.loads((ROOT / "results" / "sinusoid.json").read_text())["rows"][1]["mse"]
    assert f"{number:.3f}" in page
    assert tables.filled(page.replace(f"{number:.3f}", "0.001")) == page


def test_the_pictures_are_drawn_from_the_results() -> None:
    for name in tables.PICTURES:
        if (result := ROOT / "results" / f"{name}.json").is_file():
            with Image.open(ROOT / "docs" / f"{name}.png") as picture:
                assert picture.text["rows"] == tables.digest(json.loads(result.read_text())), "run `make tables`"


def test_every_result_that_has_a_target_met_it() -> None:
    for path in (ROOT / "results").glob("*.json"):
        assert json.loads(path.read_text()).get("passed", True), path.name
