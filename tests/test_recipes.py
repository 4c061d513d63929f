"""Every recipe in the package runs, from the command line, on real data where it needs some."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import kshot
from kshot import recipes
from kshot.cli import app
from kshot.learners import LEARNERS
from kshot.settings import arguments
from kshot.tasks import draw_glyphs
from kshot.tasks.images import write_folder

run = CliRunner()
SMALL = [
    "training.steps=2",
    "training.meta_batch=2",
    "training.validate_episodes=4",
    "evaluation.episodes=4",
    "evaluation.few=true",
]


def kshot_command(*words: object) -> str:
    done = run.invoke(app, [str(w) for w in words])
    assert done.exit_code == 0, done.output
    return done.output


def settings(*changes: str) -> list[str]:
    return [word for change in (*SMALL, *changes) for word in ("--set", change)]


def test_the_recipes_that_were_promised_are_there() -> None:
    wanted = {f"glyphs-5w1s-{n}" for n in ("protonet", "maml", "fomaml", "anil", "reptile")}
    wanted |= {"sinusoid-maml", "sinusoid-reptile", "omniglot-5w1s-protonet", "omniglot-5w1s-maml"}
    assert wanted <= set(recipes.names())


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_trains_evaluates_and_reports(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    changes = ["tasks.classes=60"] if name.startswith("glyphs") else []
    full = recipes.read(name).settings
    if full["tasks"].get("train", {}).get("ways", 0) > 10:
        changes += ["tasks.train.ways=10"]  # two steps of 180 ways take half a minute where bf16 is emulated
    if full["learner"]["name"] == "scratch":
        changes += ["learner.steps=3"]
    if full["learner"].get("eval_steps", 0) > 5:
        changes += ["learner.eval_steps=5"]
    if name.startswith(("omniglot", "intents", "parkinsons")):
        request.getfixturevalue("kshot_data")
    kshot_command("train", name, *settings(*changes), "--out", tmp_path)
    assert recipes.read(tmp_path / "recipe.toml").settings == recipes.read(name, [*SMALL, *changes]).settings
    assert "95 % interval" in kshot_command("evaluate", tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["episodes"] == 4
    if name in reported():
        kshot_command("report", tmp_path)
        assert (tmp_path / "report.html").stat().st_size > 10_000
    learner, recipe = kshot.load(tmp_path), recipes.read(name, [*SMALL, *changes])
    if recipe.kind.fit is kshot.fit:
        task = recipe.tasks("test").sample(1, kshot.seeded(0))[0]
        assert torch.isfinite(learner(task.support, task.query.x)).all()


def reported() -> list[str]:
    """A recipe of each source of tasks: what a report shows hangs on those, and a drawn page takes seconds."""
    first = {recipes.read(name).settings["tasks"]["name"]: name for name in reversed(recipes.names())}
    return [*first.values(), "glyphs-5w1s-protonet", "omniglot-5w1s-maml"]


def test_toml_there_and_back() -> None:
    for name in recipes.names():
        loaded = recipes.read(name).settings
        assert recipes.tomllib.loads(recipes.to_toml(loaded)) == loaded


def test_a_recipes_first_weights_depend_on_its_seed_alone() -> None:
    def weights(*changes: str) -> torch.Tensor:
        return torch.cat([p.flatten() for p in recipes.read("sinusoid-maml", changes).learner().parameters()])

    first = weights()
    torch.randn(3)
    assert torch.equal(weights(), first)
    assert not torch.equal(weights("training.seed=1"), first)


def test_a_run_cannot_be_gone_on_with_on_other_tasks(tmp_path: Path) -> None:
    kshot_command("train", "sinusoid-maml", *settings(), "--out", tmp_path)
    done = run.invoke(
        app, ["train", "sinusoid-maml", *settings("tasks.shots=3", "training.steps=4"), "--out", str(tmp_path)]
    )
    assert done.exit_code == 2
    assert "tasks.shots was 10, now 3" in done.output
    assert recipes.read(tmp_path / "recipe.toml").settings["tasks"]["shots"] == 10
    kshot_command("train", "sinusoid-maml", *settings("training.steps=4"), "--out", tmp_path)  # longer is allowed
    assert recipes.read(tmp_path / "recipe.toml").training["steps"] == 4


def test_new_classes_from_a_folder(tmp_path: Path) -> None:
    """Five images a class in, predictions with probabilities out; as from Python."""
    kshot_command("train", "glyphs-5w1s-protonet", *settings("tasks.classes=60"), "--out", tmp_path / "run")
    characters = draw_glyphs(4, 8, split="test", size=50, seed=5)
    write_folder(characters[:, :5], tmp_path / "support")
    write_folder(characters[:, 5:], tmp_path / "query")
    files = {"--support": tmp_path / "support", "--query": tmp_path / "query", "--out": tmp_path / "predictions.csv"}
    said = kshot_command("adapt", tmp_path / "run", *(word for pair in files.items() for word in pair))
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert list(rows[0]) == ["file", "prediction", "probability", *(f"p(class_0{c})" for c in range(4))]
    right = sum(row["file"].startswith(row["prediction"]) for row in rows)
    assert f"{right} of 12 right" in " ".join(said.split())

    learner = kshot.load(tmp_path / "run")
    classes = kshot.tasks.from_folder(tmp_path / "support")
    asked = kshot.tasks.from_folder(tmp_path / "query")
    with torch.no_grad():
        y = torch.arange(4).repeat_interleave(5)
        fitted = learner.adapt(kshot.Batch(classes.storage.read(classes.order), y, 4))
        chances = learner.predict(fitted, asked.storage.read(asked.order)).softmax(-1)
    for row, wanted in zip(rows, chances.tolist(), strict=True):
        assert [float(row[f"p(class_0{c})"]) for c in range(4)] == pytest.approx(wanted, abs=1e-4)
        assert float(row["probability"]) == pytest.approx(max(wanted), abs=1e-4)


def test_images_that_were_learned_from_are_not_counted_as_right(tmp_path: Path) -> None:
    kshot_command("train", "glyphs-5w1s-protonet", *settings("tasks.classes=60"), "--out", tmp_path / "run")
    characters = draw_glyphs(4, 5, split="test", size=28, seed=5)
    write_folder(characters[:, :3], tmp_path / "support")
    write_folder(characters[:, 2:], tmp_path / "query")  # one of three was shown

    def said(query: Path) -> str:
        folders = ("--support", tmp_path / "support", "--query", query, "--out", tmp_path / "predictions.csv")
        return " ".join(kshot_command("adapt", tmp_path / "run", *folders).split())

    assert re.search(r"\d of 8 right .*; 4 more are among the examples it learned from", said(tmp_path / "query"))
    assert "0 of 0 right; 12 more are among the examples" in said(tmp_path / "support")


def test_one_image_alone_is_classified_as_among_others(tmp_path: Path) -> None:
    kshot_command("train", "glyphs-5w1s-maml", *settings("tasks.classes=60"), "--out", tmp_path / "run")
    characters = draw_glyphs(4, 4, split="test", size=28, seed=5)
    write_folder(characters[:, :1], tmp_path / "support")
    write_folder(characters[:, 1:], tmp_path / "query")
    one = tmp_path / "query" / "class_02"

    def chances(query: Path, *words: str) -> list[list[str]]:
        folders = ("--support", tmp_path / "support", "--query", query, "--out", tmp_path / "predictions.csv")
        said = kshot_command("adapt", tmp_path / "run", *folders, *words)
        assert ("all images together" in said) != ("--alone" in words)
        with open(tmp_path / "predictions.csv", newline="") as file:
            return [[*row.values()][1:] for row in csv.DictReader(file)]

    assert chances(tmp_path / "query", "--alone")[6:9] == chances(one, "--alone")
    assert chances(tmp_path / "query")[6:9] != chances(one)


def test_list_and_every_help_page() -> None:
    listed = kshot_command("list")
    for name in (*recipes.names(), "protonet", "conv4", "sgd", "sinusoids"):
        assert name in listed
    for command in ("train", "evaluate", "adapt", "report", "list", "demo"):
        assert len(kshot_command(command, "--help").splitlines()) > 5


# What depends on the problem; every other argument of a learner is what it is by default.
OF_THE_PROBLEM = {
    "model",
    "encoder",
    "relation",
    "rule",
    "batch_norm",
    "steps",
    "eval_steps",
    "minibatches",
    "lr",
    "classes",
}
ALSO = {
    "omniglot-5w1s-metalstm": {"adapted"},  # the head alone: the paper's learner of all weights costs ten times as much
    "omniglot-5w1s-nearest-centroid": {"distance"},  # of pixels, whose lengths are ink
    "omniglot-5w1s-best": {"rounds", "eval_rounds"},
}


@pytest.mark.parametrize("name", [name for name in recipes.names() if name.startswith("omniglot")])
def test_a_learner_on_omniglot_is_the_library_s_by_default(name: str) -> None:
    learner = recipes.read(name).settings["learner"]
    by_default = {key: argument.default for key, argument in arguments(LEARNERS[learner["name"]]).items()}
    changed = {key for key, value in learner.items() if key != "name" and value != by_default[key]}
    assert changed <= OF_THE_PROBLEM | ALSO.get(name, set())


def test_a_figure_changes_of_a_section_only_what_it_names() -> None:
    best = recipes.read("omniglot-5w1s-best")
    row = next(row for row in best.paper.rows if row.name == "5-way 1-shot, one view, alone")
    assert best.tested(row.learner)["encoder"] == {**best.settings["learner"]["encoder"], "views": 1}
    assert best.tested({"encoder": {"encoder": {"width": 8}}})["encoder"]["encoder"] == {
        **best.settings["learner"]["encoder"]["encoder"],
        "width": 8,
    }
    assert best.tested({"encoder": {"name": "mlp", "inputs": 3}})["encoder"] == {"name": "mlp", "inputs": 3}
