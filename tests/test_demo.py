"""The demo keeps its promise: a learner trained from nothing, right on classes that it has never seen."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from typer.testing import CliRunner

from kshot.cli import app


def test_the_demo(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["episodes"] >= 600
    assert found["mean"] - found["interval"] >= 0.95
    assert not found["transductive"]
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 50
    assert sum(row["file"].startswith(row["prediction"]) for row in rows) >= 48
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "report.png").is_file()
