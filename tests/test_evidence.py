"""kshot reproduce and kshot compare: what is measured, what is kept, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import kshot
from kshot import InputError, Task, evidence, recipes
from kshot.cli import app
from kshot.evaluation import Evaluation, figure, written
from kshot.evidence import measure_again, reached, read_all, read_kept
from kshot.evidence.figures import Figure, Ours
from kshot.evidence.reproduce import Again
from kshot.intervals import mean_interval
from kshot.recipes.paper import Row, read_paper
from kshot.tasks import Sinusoids

RECIPE = """
about = "MAML on sinusoids, for a moment"

[learner]
name = "maml"
loss = "mse"
steps = 1
model = { name = "mlp", inputs = 1, outputs = 1, hidden = [8] }
rule = { name = "sgd", lr = 0.01 }

[tasks]
name = "sinusoids"
shots = 5

[training]
steps = 6
meta_batch = 2

[paper]
source = "Nobody 1999"
minutes = 1
seeds = 2
rows = [
    { name = "one step", published = 0.5, interval = 0.1, target = 100.0 },
    { name = "three steps, 10 points", test = { shots = 10 }, learner = { eval_steps = 3 }, target = 1e-3 },
]
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "moment.toml").write_text(RECIPE)
    return tmp_path


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kshot.cli.evidence.out", Console(width=200))


def command(place: Path, *words: str, code: int = 0) -> str:
    found = CliRunner().invoke(app, list(words))
    assert found.exit_code == code, found.output
    return " ".join(found.output.split())


def reproduce(place: Path, *words: str, code: int = 0) -> str:
    folders = ("--runs", str(place / "runs"), "--results", str(place / "results"))
    return command(place, "reproduce", str(place / "moment.toml"), *folders, *words, code=code)


def test_every_seed_is_trained_measured_and_kept(place: Path) -> None:
    said = reproduce(place)
    assert "seed 0: training" in said
    assert "seed 1: training" in said
    kept = read_kept(place / "results" / "moment.json")
    assert [seed.seed for seed in kept.seeds] == [0, 1]
    assert kept.paper.source == "Nobody 1999"
    for seed in kept.seeds:  # the very figures that evaluating the runs by hand gives
        learner = kshot.load(place / "runs" / f"moment-seed{seed.seed}", eval_steps=3)
        found = kshot.evaluate(learner, Sinusoids(shots=10), 600, curves=False)
        assert seed.figures["three steps, 10 points"].mean == found.mean
        assert seed.figures["three steps, 10 points"].interval == found.interval
        assert seed.figures["one step"].episodes == 600
        assert seed.steps == 6
    ours, rows = kept.ours("one step"), kept.paper.rows
    assert ours is not None
    assert ours.mean == pytest.approx(sum(s.figures["one step"].mean for s in kept.seeds) / 2)
    assert ours.spread is not None
    assert ours.spread > 0
    assert reached(rows[0], ours) is True
    assert reached(rows[1], kept.ours(rows[1].name)) is False
    assert kept.seeds[0].versions["torch"]
    assert "0.5 ± 0.1" in said
    assert "100 ✓" in said
    assert "0.001 ✗" in said


def test_seeds_measured_by_several_processes_at_once_are_all_kept(place: Path) -> None:
    recipe, runs, results = recipes.read(place / "moment.toml"), place / "runs", place / "results"

    def meanwhile(line: str) -> None:
        if line.startswith("seed 0: training"):
            evidence.reproduce(recipe, runs, results, seeds=[1], say=lambda _: None)

    evidence.reproduce(recipe, runs, results, seeds=[0], say=meanwhile)
    assert [seed.seed for seed in read_kept(results / "moment.json").seeds] == [0, 1]


def test_who_writes_results_waits_for_another_process_that_does(place: Path) -> None:
    """Between its reading what was there and its writing no figure may come along."""
    recipe = recipes.read(place / "moment.toml", ["evaluation.episodes=10", "evaluation.few=true"])
    results, released = place / "results", []
    hold = f"from pathlib import Path; from kshot import atomic\nwith atomic.alone_in(Path({str(results)!r})): print(), input()"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()

        def release() -> None:
            released.append(True)
            print(file=other.stdin, flush=True)

        def soon(line: str) -> None:
            if line.startswith("seed 0: three steps"):
                threading.Timer(1.0, release).start()

        evidence.reproduce(recipe, place / "runs", results, seeds=[0], say=soon)
        assert released
    assert read_kept(results / "moment.json").seeds


def test_what_was_measured_is_not_trained_again_unless_the_settings_changed(place: Path) -> None:
    reproduce(place, "--seed", "0")
    path = place / "results" / "moment.json"
    before, was = path.read_bytes(), read_kept(path).seeds[0].figures
    assert "seed 0: measured on" in reproduce(place, "--seed", "0")
    assert (place / "results" / "moment.json").read_bytes() == before
    # A figure that means something else is measured again, of the run as it is; a target is only written.
    (place / "moment.toml").write_text(RECIPE.replace('"one step", pub', '"one step", test = { shots = 20 }, pub'))
    assert "seed 0: one step" in reproduce(place, "--seed", "0")
    now = read_kept(path).seeds[0].figures
    assert now["one step"] != was["one step"]
    (gone,) = read_kept(path).earlier  # and what it meant before is not lost
    assert gone.seeds[0].figures == {"one step": was["one step"]}
    assert gone.reproduces["rows"][0].get("test") is None
    assert now["three steps, 10 points"].mean == was["three steps, 10 points"].mean
    (place / "moment.toml").write_text(RECIPE)
    reproduce(place, "--seed", "0")
    (place / "moment.toml").write_text(RECIPE.replace("target = 100.0", "target = 4.0"))
    assert "✗" in reproduce(place, "--seed", "0")
    (place / "moment.toml").write_text(RECIPE)
    reproduce(place, "--seed", "0")
    before = (place / "results" / "moment.json").read_bytes()
    (place / "moment.toml").write_text(RECIPE.replace("lr = 0.01", "lr = 0.02"))
    said = reproduce(place, "--seed", "0", code=2)
    assert "measured with other settings, and kept" in said
    assert "holds a run with other settings" in said  # and the run folder is not written over
    assert (place / "results" / "moment.json").read_bytes() == before
    # The learner of the old settings still gives the figures of the old settings.
    (place / "moment.toml").write_text(RECIPE.replace("shots = 5", "shots = 7"))
    said = reproduce(place, "--again")
    assert "the recipe has other settings now" in said
    assert said.count("as recorded") == 2


def test_a_default_that_changed_makes_a_figure_one_of_older_settings(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reproduce(place, "--seed", "0")
    kept, recipe = read_kept(place / "results" / "moment.json"), recipes.read(place / "moment.toml")
    assert kept.is_of(recipe)
    assert kept.learner is not None
    older = {name: value for name, value in kept.learner.items() if name != "allow_unused"}
    assert replace(kept, learner=older).is_of(recipe)  # the argument came later, and is off
    monkeypatch.setitem(kshot.MAML.__init__.__kwdefaults__, "allow_unused", True)
    assert not kept.is_of(recipe)


def test_the_kept_learner_gives_its_figures_again(place: Path) -> None:
    reproduce(place)
    assert (place / "results" / "models" / "moment.safetensors").is_file()
    kept = place / "results" / "models" / "moment.safetensors"
    kept.rename(kept.with_suffix(".aside"))
    assert "is not there any more" in reproduce(place, "--again", code=2)
    kept.with_suffix(".aside").rename(kept)
    found = measure_again("moment", place / "results")
    for again in found:  # one by one or together is chosen by the clock, and rounds differently
        assert again.found.mean == pytest.approx(again.recorded.mean, rel=1e-9)
    assert "as recorded" in reproduce(place, "--again")

    content = json.loads((place / "results" / "moment.json").read_text())
    content["seeds"][0]["figures"]["one step"]["mean"] += 0.1
    (place / "results" / "moment.json").write_text(json.dumps(content))
    assert "another figure than the recorded one" in reproduce(place, "--again", code=2)


def test_the_list_shows_what_is_to_be_done_and_what_was(place: Path) -> None:
    nothing = command(place, "reproduce", "--list", "--results", str(place / "none"))
    for name in recipes.names():
        paper = recipes.read(name).paper
        assert (name in nothing.split()) == (paper is not None)
    reproduce(place, "--seed", "1")
    said = command(place, "reproduce", "--list", "--results", str(place / "results"))
    assert "seeds: 1 of 2" in said
    alone = reproduce(place, "--list")
    assert "seeds: 1 of 2" in alone
    assert "kshot reproduce omniglot" not in alone
    assert "older settings" not in said
    assert all(name in said for name in recipes.names() if recipes.read(name).paper is not None)
    assert list(read_all(place / "results")) == ["moment"]
    kept = read_kept(place / "results" / "moment.json")
    for seconds, words in ((60.0, "1 minutes a training, of a budget of 1"), (120.0, "over its budget of 1")):
        replace(kept, seeds=[replace(kept.seeds[0], seconds=seconds)]).write(place / "results")
        assert words in reproduce(place, "--list")


def test_nothing_to_reproduce_or_to_measure_again(place: Path) -> None:
    assert "has no [paper] section" in command(place, "reproduce", "sinusoid-multitask", code=2)
    assert "has no [paper] section" in command(place, "reproduce", "--list", "sinusoid-multitask", code=2)
    assert "--again needs a recipe" in command(place, "reproduce", "--again", code=2)
    assert "--seed needs a recipe, and goes without --list" in reproduce(place, "--list", "--seed", "1", code=2)
    assert "trains and writes it" in reproduce(place, "--again", code=2)
    (place / "results").mkdir()
    (place / "results" / "moment.json").write_text('{"reproduces": ')
    assert "moment.json cannot be read" in reproduce(place, code=2)
    (place / "results" / "moment.json").write_bytes(b'\xff"reproduces"')
    said = command(place, "reproduce", "--list", "--results", str(place / "results"), code=2)
    assert "moment.json cannot be read" in said
    assert "bring back an older one" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"minuets": 3}, "no setting 'minuets': did you mean 'minutes'"),
        ({"rows": []}, "figures are needed"),
        ({"rows": [{"published": 1.0}]}, r"row 1 of .paper. lacks name, beside published: add it, such as name = "),
        ({"rows": [{"name": "a", "target": "high"}]}, "target='high': a number is needed"),
        ({"rows": [{"name": "a", "test": 5}]}, "test=5: settings are needed"),
        ({"rows": [{"name": "a"}, {"name": "a"}]}, "rows of the same name"),
        ({"seeds": 0}, "seeds=0"),
    ],
)
def test_a_paper_section_that_is_wrong(change: dict[str, Any], said: str) -> None:
    section = {"source": "Nobody 1999", "minutes": 1, "rows": [{"name": "a"}]}
    read_paper(section)
    with pytest.raises(InputError, match=said):
        read_paper({**section, **change})
    with pytest.raises(InputError, match=r"lacks minutes, .*: add it, such as minutes = 30"):
        read_paper({"source": "Nobody 1999", "rows": [{"name": "a"}]})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("eval_steps", "eval_stepz"), "no setting 'eval_stepz'"),
        (("test = { shots = 10 }", "test = { shotz = 10 }"), "no setting 'shotz'"),
    ],
)
def test_a_row_that_cannot_be_measured_is_found_before_the_training(
    place: Path, change: tuple[str, str], said: str
) -> None:
    (place / "moment.toml").write_text(RECIPE.replace(*change))
    assert said in reproduce(place, code=2)
    assert not (place / "runs").exists()


def test_test_classes_that_are_trained_on_are_found_before_the_training(place: Path) -> None:
    glyphs = """
[learner]
name = "protonet"
encoder = { name = "conv4", width = 4, norm = "group" }

[tasks]
name = "glyphs"

[tasks.test]
split = "train"

[training]
steps = 1

[paper]"""
    (place / "moment.toml").write_text('about = "leaks"\n' + glyphs + RECIPE.split("[paper]")[1])
    said = reproduce(place, code=2)
    assert "classes to evaluate on are ones that the recipe trains on" in said
    assert not (place / "runs").exists()


ALONE = """
[learner]
name = "maml"
model = { name = "conv4", outputs = 3, width = 4, size = 16 }

[tasks]
name = "glyphs"
ways = 3
queries = 2
classes = 12
size = 16

[training]
steps = 2
meta_batch = 2

[evaluation]
episodes = 40
few = true

[paper]
source = "Nobody 1999"
minutes = 1
rows = [{ name = "together" }, { name = "each alone", alone = true }]
"""


def test_a_row_may_be_of_each_query_alone(place: Path) -> None:
    (place / "moment.toml").write_text(ALONE)
    reproduce(place)
    together, alone = read_kept(place / "results" / "moment.json").seeds[0].figures.values()
    assert together.transductive
    assert not alone.transductive
    assert together.mean != alone.mean
    learner = kshot.load(place / "runs" / "moment-seed0")
    found = kshot.evaluate(kshot.alone(learner), recipes.read(place / "moment.toml").tasks("test"), 40, curves=False)
    assert alone.mean == pytest.approx(100 * found.mean)

    run = str(place / "runs" / "moment-seed0")
    assert "transductive" in command(place, "evaluate", run, "--episodes", "20")
    assert "transductive" not in command(place, "evaluate", run, "--episodes", "20", "--alone")
    changed = ALONE.replace('{ name = "together" }', '{ name = "together", alone = true }')
    (place / "moment.toml").write_text(changed)
    reproduce(place)  # another test is another figure
    figures = read_kept(place / "results" / "moment.json").seeds[0].figures
    assert figures["together"].mean == alone.mean


def test_more_test_tasks_are_measured_and_not_trained_for(place: Path) -> None:
    reproduce(place, "--seed", "0")
    (place / "moment.toml").write_text(RECIPE + "\n[evaluation]\nepisodes = 700\n")
    assert "seed 0: one step" in reproduce(place, "--seed", "0")
    kept = read_kept(place / "results" / "moment.json")
    assert [figure.episodes for figure in kept.seeds[0].figures.values()] == [700, 700]
    assert reproduce(place, "--again").count("as recorded") == 2


def test_the_learner_of_each_seed_is_kept_and_measured_again(place: Path) -> None:
    reproduce(place)
    said = reproduce(place, "--again")
    assert [said.count(f"seed {seed}: ") for seed in (0, 1)] == [2, 2]
    assert "seed" not in reproduce(place, "--again", "--seed", "1")
    assert "no learner of seed 7 is kept" in reproduce(place, "--again", "--seed", "7", code=2)


def test_two_ranks_train_both_seeds_and_one_writes(place: Path) -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "kshot", "reproduce"]
    words += [str(place / "moment.toml"), "--runs", str(place / "runs"), "--results", str(place / "results")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("seed 1: one step") == 1
    assert [seed.seed for seed in read_kept(place / "results" / "moment.json").seeds] == [0, 1]


def test_a_target_is_reached_or_not() -> None:
    """By the figure itself, not as it is rounded for a table."""

    def ours(mean: float, metric: str = "accuracy") -> Ours:
        return Ours(metric, mean, 0.1, None, 1, False, 600)

    row = Row("5-way 1-shot", target=99.0)
    assert reached(row, ours(99.0))
    assert not reached(row, ours(98.996))
    assert reached(Row("x", target=-9.0), ours(-8.0, "return"))
    assert reached(Row("x", target=0.1), ours(0.1, "mse"))
    assert not reached(Row("x", target=0.1), ours(0.1004, "mse"))
    assert not reached(Row("x", target=0.1), ours(float("nan"), "mse"))
    assert reached(Row("x"), ours(1.0)) is None
    assert reached(row, None) is None


@pytest.mark.parametrize(
    ("metric", "mean", "interval", "wanted"),
    [
        ("accuracy", 98.307, 0.206, "98.31 ± 0.21"),
        ("accuracy", 25, 1, "25.00 ± 1.00"),
        ("mse", 0.09318, 0.00432, "0.0932 ± 0.0043"),
        ("mse", 0.00042, 0.00003, "0.000420 ± 0.000030"),
        ("return", -1234.56, 23.4, "−1,235 ± 23"),
        ("mse", 3.2e12, 1e12, "3.2e+12 ± 1.0e+12"),
        ("mse", 0.5, float("nan"), "0.50"),
        ("mse", float("nan"), float("nan"), "not a number"),
    ],
)
def test_a_figure_has_as_many_digits_as_its_interval_bears_out(
    metric: str, mean: float, interval: float, wanted: str
) -> None:
    assert written(metric, mean, interval) == wanted
    raw, unit = (0.01, " %") if metric == "accuracy" else (1.0, "")
    assert figure(metric, raw * mean, raw * interval) == wanted + unit


def test_what_is_no_number_has_no_unit() -> None:
    assert figure("accuracy", float("nan"), float("nan")) == "not a number"


def test_a_learner_that_diverges_is_kept_as_such(place: Path) -> None:
    astray = RECIPE.replace("eval_steps = 3", "eval_steps = 40").replace("lr = 0.01", "lr = 1.0")
    (place / "moment.toml").write_text(astray.replace("[paper]", "[evaluation]\nepisodes = 40\nfew = true\n\n[paper]"))
    reproduce(place)
    text = (place / "results" / "moment.json").read_text()
    json.loads(text, parse_constant=pytest.fail)  # NaN is no JSON
    runs = [str(place / "runs" / f"moment-seed{seed}") for seed in (0, 1)]
    sets = ("--set", "tasks.test.shots=10", "--episodes", "60", "--json", str(place / "compared.json"))
    assert "no difference shown" in command(place, "compare", *runs, *sets)
    json.loads((place / "compared.json").read_text(), parse_constant=pytest.fail)
    comparison = place / "runs" / "moment-seed0" / "comparison.json"
    comparison.write_text(re.sub(r'"(mean|interval)": [^,\n]+', r'"\1": null', comparison.read_text()))
    command(place, "report", runs[0])
    assert "not a number" in (Path(runs[0]) / "report.html").read_text()
    kept = read_kept(place / "results" / "moment.json")
    ours = kept.ours("three steps, 10 points")
    assert ours is not None
    assert not ours.mean < 1e6
    assert ours.spread is None
    assert reached(kept.paper.rows[1], ours) is False
    assert "as recorded" in reproduce(place, "--again")


def test_a_learner_that_diverges_is_evaluated_and_reported(place: Path) -> None:
    astray = RECIPE.replace("lr = 0.01", "lr = 1.0").replace("steps = 1", "steps = 1\neval_steps = 60")
    (place / "moment.toml").write_text(astray)
    run = str(place / "run")
    command(place, "train", str(place / "moment.toml"), "--out", run)
    command(place, "evaluate", run, "--episodes", "20")
    kept = json.loads((Path(run) / "evaluation.json").read_text())
    assert None in kept["values"]
    assert kept["mean"] is None
    command(place, "report", run)
    assert "not a number" in (Path(run) / "report.html").read_text()


def test_a_figure_that_diverges_is_the_same_again_where_about_as_many_tasks_do() -> None:
    recorded = Figure("mse", 1e9, 1e9, 600, 0, False, 1.0, [], median=0.1, diverged=2)
    assert Again(0, "a", recorded, replace(recorded, mean=5e6, diverged=5)).same
    assert not Again(0, "a", recorded, replace(recorded, diverged=300)).same
    assert not Again(0, "a", recorded, replace(recorded, median=0.2)).same
    widely = replace(recorded, diverged=60)
    assert Again(0, "a", widely, replace(widely, median=9e9)).same
    exact = kshot.Evaluation("mse", 0.01, 0.0, [0.0] * 599 + [6.0], 600, 0, False, 1.0)
    assert Figure.of(exact).diverged == 0


def test_a_mean_that_a_few_tasks_make_is_shown_as_such(place: Path) -> None:
    """Two tasks of 600 diverge: neither a mean of 10^6 nor one without those two says what happens."""
    reproduce(place)
    path = place / "results" / "moment.json"
    found = kshot.Evaluation("mse", 1e6, 1e6, [1.0] * 598 + [3e8, float("inf")], 600, 0, False, 1.0)
    figure = Figure.of(found)
    assert (figure.median, figure.diverged) == (1.0, 2)
    kept = read_kept(path)
    seeds = [kept.seeds[0], kept.seeds[1].with_figures({"one step": figure})]
    ours = replace(kept, seeds=seeds).ours("one step")
    other = kept.seeds[0].figures["one step"]
    steady = written("mse", other.mean, other.interval)
    assert str(ours) == f"1 of 2 seeds diverges on 2 of 600 tasks, median error 1.000; without it {steady}"
    milder = replace(figure, mean=other.mean + 2.0)
    both = replace(kept, seeds=[seeds[0], seeds[1].with_figures({"one step": milder})]).ours("one step")
    assert str(both).startswith(f"{other.mean + 1:.0f} ± ")  # the mean of all, as long as it says something
    assert str(both).endswith(f"; without it {steady}")
    assert not reached(Row("one step", target=10.0), ours)  # not by the others alone
    alone = replace(kept, seeds=seeds[1:]).ours("one step")
    assert str(alone) == "diverges on 2 of 600 tasks, median error 1.000"
    assert replace(kept, seeds=seeds[1:]).recipe.name == "moment"
    replace(kept, seeds=seeds).write(path.parent)
    assert read_kept(path).seeds[1].figures["one step"] == figure
    assert "diverges on 2 of 600 tasks" in command(place, "reproduce", "--list", "--results", str(path.parent))


def test_earlier_figures_are_kept_beside_those_of_other_settings(place: Path) -> None:
    """Who changes a recipe after it was measured has chosen by the test tasks."""
    reproduce(place, "--seed", "0")
    path = place / "results" / "moment.json"
    first = read_kept(path)
    (place / "moment.toml").write_text(RECIPE.replace("lr = 0.01", "lr = 0.02"))
    said = reproduce(place, "--seed", "0", "--runs", str(place / "others"))
    assert "kept in it as earlier figures: one step; three steps, 10 points" in said
    kept = read_kept(path)
    gone = [replace(seed, model=None) for seed in first.seeds]  # in whose place the new one's is
    assert [(e.settings, e.seeds) for e in kept.earlier] == [(first.settings, gone)]
    assert kept.seeds[0].figures["one step"] != first.seeds[0].figures["one step"]
    assert reproduce(place, "--seed", "0", "--runs", str(place / "others"))
    assert read_kept(path) == kept


def test_a_row_that_was_added_is_measured_of_the_kept_learner(place: Path) -> None:
    """The runs are not in a clone; and when and where it was trained stays as it was."""
    reproduce(place, "--seed", "0")
    path = place / "results" / "moment.json"
    content = json.loads(path.read_text())
    content["seeds"][0] |= {"date": "1999-01-01", "versions": {"commit": "abc"}}
    del content["seeds"][0]["learner"]  # as in a file of before it was kept
    path.write_text(json.dumps(content))
    one, two = RECIPE.split("rows = [")
    (place / "moment.toml").write_text(f'{one}rows = [{{ name = "20 points", test = {{ shots = 20 }} }},{two}')
    said = reproduce(place, "--seed", "0", "--runs", str(place / "nowhere"))
    assert "training into" not in said
    (seed,) = read_kept(path).seeds
    assert (seed.date, seed.versions) == ("1999-01-01", {"commit": "abc"})
    assert set(seed.figures) == {"one step", "three steps, 10 points", "20 points"}
    assert not seed.figures["20 points"].measured.startswith("1999")
    assert not (place / "nowhere").exists()


def test_where_no_learner_is_left_another_training_takes_the_place_of_the_old(place: Path) -> None:
    """One figure of it beside those of the old one would be of two learners. A run that is still there is the old one."""
    few = RECIPE.replace("[paper]", "[evaluation]\nepisodes = 10\nfew = true\n\n[paper]").replace(
        "seeds = 2", "seeds = 1"
    )
    (place / "moment.toml").write_text(few)
    reproduce(place)
    path = place / "results" / "moment.json"
    content = json.loads(path.read_text())
    content["seeds"][0] |= {"date": "1999-01-01", "model": None}
    path.write_text(json.dumps(content))
    one, two = few.split("rows = [")
    (place / "moment.toml").write_text(f'{one}rows = [{{ name = "20 points", test = {{ shots = 20 }} }},{two}')
    assert "training into" not in reproduce(place)
    assert read_kept(path).seeds[0].date == "1999-01-01"
    (place / "moment.toml").write_text(f'{one}rows = [{{ name = "9 [/] points", test = {{ shots = 9 }} }},{two}')
    said = reproduce(place, "--runs", str(place / "others"))
    assert "training into" in said
    assert "seed 0: 9 [/] points: " in said
    (seed,) = read_kept(path).seeds
    assert seed.date != "1999-01-01"
    assert set(seed.figures) == {"9 [/] points", "one step", "three steps, 10 points"}


def test_a_training_is_recorded_as_it_was_made(place: Path) -> None:
    """On another machine, by an older version, and measured here."""
    few = RECIPE.replace("[paper]", "[evaluation]\nepisodes = 10\nfew = true\n\n[paper]").replace(
        "seeds = 2", "seeds = 1"
    )
    (place / "moment.toml").write_text(few)
    run = place / "runs" / "moment-seed0"
    command(place, "train", str(place / "moment.toml"), "--out", str(run), "--set", "training.seed=0")
    made = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(made | {"torch": "1.2.3", "commit": "abc", "machine": {"cpu": "other"}}))
    reproduce(place)
    (seed,) = read_kept(place / "results" / "moment.json").seeds
    assert (seed.versions["torch"], seed.versions["commit"], seed.machine) == ("1.2.3", "abc", {"cpu": "other"})
    assert "is a file" in reproduce(place, "--results", str(place / "moment.toml"), code=2)


def test_a_figure_of_few_tasks_is_shown_as_such(place: Path) -> None:
    (place / "moment.toml").write_text(RECIPE.replace("[paper]", "[evaluation]\nepisodes = 10\nfew = true\n\n[paper]"))
    assert "(10 tasks)" in reproduce(place, "--seed", "0")


def test_trainings_that_are_none_of_their_own_are_not_compared(place: Path) -> None:
    """Copies, and the same recipe with the same seed: the spread over such trainings says nothing."""
    few = RECIPE.replace("[paper]", "[evaluation]\nepisodes = 10\nfew = true\n\n[paper]")
    (place / "moment.toml").write_text(few)
    (place / "quicker.toml").write_text(few.replace("lr = 0.01", "lr = 0.02"))
    runs = {}
    for name, recipe, seed in (("a0", "moment", 0), ("a1", "moment", 1), ("b0", "quicker", 0)):
        runs[name] = str(place / name)
        command(place, "train", str(place / f"{recipe}.toml"), "--out", runs[name], "--set", f"training.seed={seed}")
    shutil.copytree(runs["a0"], place / "copy")
    assert "hold the same learner" in command(place, "compare", runs["a0"], runs["b0"], str(place / "copy"), code=2)
    (place / "a1" / "recipe.toml").write_text((place / "a0" / "recipe.toml").read_text())
    assert "by the same recipe and seed" in command(place, "compare", *runs.values(), code=2)
    told = (place / "a0" / "recipe.toml").read_text().replace("seed = 0", "seed = 1").replace("100.0", "99.0")
    (place / "a1" / "recipe.toml").write_text(told)  # another target makes no other learner
    assert "and 1 more training of it" in command(place, "compare", *runs.values())


def test_a_training_that_was_stopped_is_said_to_be_one(place: Path) -> None:
    run = place / "run"
    with pytest.raises(kshot.training.Interrupted):
        kshot.fit(
            recipes.read(place / "moment.toml").learner(), Stopping(), steps=6, meta_batch=2, out=run, progress=False
        )
    (run / "recipe.toml").write_text(RECIPE)
    said = command(place, "evaluate", str(run), "--episodes", "10")
    assert re.search(r"was trained for [1-5] of 6 steps so far", said)


class Stopping(Sinusoids):
    """Whoever waits for the third step presses Ctrl-C."""

    drawn = 0

    def sample(self, n: int, generator: torch.Generator) -> Task:
        self.drawn += 1
        if self.drawn == 9:
            os.kill(os.getpid(), signal.SIGINT)
        return super().sample(n, generator)


def test_a_file_with_the_name_of_one_of_our_recipes(place: Path) -> None:
    (place / "sinusoid-maml-paper.toml").write_text(RECIPE)
    said = command(place, "reproduce", str(place / "sinusoid-maml-paper.toml"), "--list", code=2)
    assert "has the name of a recipe of kshot" in said


def test_the_list_of_a_file_says_that_it_has_changed(place: Path) -> None:
    (place / "moment.toml").write_text(RECIPE.replace("[paper]", "[evaluation]\nepisodes = 10\nfew = true\n\n[paper]"))
    assert "one step 0.5 ± 0.1 – – 100" in reproduce(place, "--list")
    reproduce(place, "--seed", "0")
    said = reproduce(place, "--list")
    assert "older settings)" not in said
    assert "seeds: 1 of 2" in said
    text = (place / "moment.toml").read_text()
    (place / "moment.toml").write_text(text.replace("lr = 0.01", "lr = 0.5"))
    assert "(older settings)" in reproduce(place, "--list")


def test_runs_are_compared_on_the_same_tasks(place: Path) -> None:
    reproduce(place)
    a, b = (str(place / "runs" / f"moment-seed{seed}") for seed in (0, 1))
    said = command(place, "compare", a, b, "--episodes", "60", "--json", str(place / "compared.json"))
    runs = json.loads((place / "compared.json").read_text())["runs"]
    gaps = [y - x for x, y in zip(runs[0]["values"], runs[1]["values"], strict=True)]
    assert figure("mse", *mean_interval(gaps), signed=True) in said
    assert "the same 60 test tasks for all" in said
    assert "would change how the run was trained" in command(
        place, "compare", a, b, "--set", "learner.eval_steps=5", code=2
    )
    for change, wrong in (("nonsense", "is no setting"), ("tasks.train.shots=3", "what the run was trained on")):
        assert wrong in command(place, "compare", a, b, "--set", change, code=2)
    assert "fewer than the 600 of papers" in said
    assert "of one training: with another seed" in said
    assert "at least two" in command(place, "compare", a, code=2)
    assert "hold the same learner" in command(place, "compare", a, b, a, code=2)
    assert "is not the folder of a run" in command(place, "compare", str(place), a, code=2)
    assert "is a saved learner" in command(place, "compare", f"{a}/last.safetensors", a, code=2)


def test_seeds_of_one_recipe_are_trainings_of_one_learner(place: Path) -> None:
    """Their mean is compared, and the interval is over them, too; that it is right is tested with kshot.compare."""
    reproduce(place)
    (place / "quicker.toml").write_text(RECIPE.replace("lr = 0.01", "lr = 0.05"))
    folders = ("--runs", str(place / "runs"), "--results", str(place / "results"))
    command(place, "reproduce", str(place / "quicker.toml"), *folders)
    runs = [str(place / "runs" / f"{name}-seed{seed}") for seed in (0, 1) for name in ("moment", "quicker")]
    said = command(place, "compare", *runs, "--episodes", "60", "--json", str(place / "compared.json"))
    found = [Evaluation.from_dict(e) for e in json.loads((place / "compared.json").read_text())["runs"] if e.pop("run")]
    gap = kshot.compare(found[1::2], found[::2])
    assert f"{figure('mse', gap.mean, gap.interval, signed=True)}, paired: {gap.verdict}" in said
    assert said.count("and 1 more training of it") == 2
    assert "over trainings, too" in said
    command(place, "report", runs[0])
    assert "moment-seed0 (this run), 2 trainings" in (Path(runs[0]) / "report.html").read_text()
    for few in (runs[:2], runs[:3]):  # of one side a single training: it says nothing of others
        assert "of one training" in command(place, "compare", *few, "--episodes", "60")


def test_the_report_shows_what_was_checked_the_paper_and_other_runs(place: Path) -> None:
    reproduce(place)
    a, b = (str(place / "runs" / f"moment-seed{seed}") for seed in (0, 1))
    command(place, "compare", a, b, "--episodes", "60")
    command(place, "report", a)
    page = (Path(a) / "report.html").read_text()
    kept = read_kept(place / "results" / "moment.json")
    figure = kept.seeds[0].figures["one step"]
    for wanted in (
        "What the number rests on",
        "Seed 0 gives the same tasks again.",
        "Support and query share no example",
        "Beside the paper (Nobody 1999)",
        str(figure),
        "0.5 ± 0.1",
        "Other runs on the very same 60 tasks",
        b,
    ):
        assert wanted in page
    (Path(a) / "comparison.json").write_text("{")
    assert "comparison.json is damaged" in command(place, "report", a, code=2)


def test_what_was_measured_of_a_run_that_went_on_is_not_in_its_report(place: Path) -> None:
    reproduce(place)
    a, b = (str(place / "runs" / f"moment-seed{seed}") for seed in (0, 1))
    command(place, "compare", a, b, "--episodes", "60")
    command(place, "evaluate", a, "--episodes", "60")
    before = json.loads((Path(a) / "evaluation.json").read_text())
    assert "learner" in before
    (place / "longer.toml").write_text(RECIPE.replace("steps = 6", "steps = 200"))
    command(place, "train", str(place / "longer.toml"), "--out", a)
    command(place, "report", a)
    page = (Path(a) / "report.html").read_text()
    assert "Other runs on the very same" not in page
    assert "Beside the paper" not in page
    assert "60 tasks" not in page
    command(place, "evaluate", a, "--episodes", "60")
    assert json.loads((Path(a) / "evaluation.json").read_text())["mean"] != before["mean"]
    command(place, "report", a)
    assert "60 tasks" in (Path(a) / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "row"), [("omniglot-5w1s-protonet", "5-way 1-shot"), ("sinusoid-maml-paper", "10 points, 1 step")]
)
def test_a_recorded_figure_of_the_house_is_measured_again(name: str, row: str, request: pytest.FixtureRequest) -> None:
    """From the learner that lies in results/models; on the real drawings, and where there are none."""
    if name.startswith("omniglot"):
        request.getfixturevalue("kshot_data")
    again = measure_again(name, Path(__file__).parent.parent / "results", [row])
    assert [x.row for x in again if x.same] == [row]
