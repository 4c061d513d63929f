"""The report of two tiny real runs, a regression that learns in steps and a classifier of images that does not."""

from __future__ import annotations

import builtins
import dataclasses
import html
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import kshot
from kshot.evaluation import Calibration, Evaluation, Point, nth_task
from kshot.learner import MetaLearner, mse_loss
from kshot.models import MLP, Conv4
from kshot.report import write_report
from kshot.report.episode import draw_episode, typical
from kshot.report.facts import Facts, duration, with_interval
from kshot.rules import SGD
from kshot.tasks.episodes import Episodes
from kshot.tasks.sinusoids import Sinusoids
from kshot.types import Batch, InputError, Task, TaskSource

Run = tuple[Path, MetaLearner, TaskSource, Evaluation]


def images(classes: int, seed: int) -> Episodes:
    """Classes of noisy bytes."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(classes, 1, 1, 16, 16, generator=generator)
    x = (255 * (0.6 * centres + 0.4 * torch.rand(classes, 12, 1, 16, 16, generator=generator))).byte()
    return Episodes((x.flatten(0, 1), torch.arange(classes).repeat_interleave(12)), ways=3, shots=2, queries=4)


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = tmp_path_factory.mktemp("a run")
    torch.manual_seed(0)
    learner = kshot.MAML(MLP(1, (16,), 1), loss=mse_loss, rule=SGD(0.01))
    kshot.fit(
        learner, Sinusoids(), validate=Sinusoids(), steps=60, meta_batch=4, validate_episodes=8, out=run, progress=False
    )
    return run, kshot.load(run), Sinusoids(), kshot.evaluate(learner, Sinusoids(), 12)


@pytest.fixture(scope="module")
def classification(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = tmp_path_factory.mktemp("images")
    torch.manual_seed(0)
    learner = kshot.ProtoNet(Conv4(width=4, size=16, norm="group"))
    kshot.fit(learner, images(8, 1), validate=images(6, 2), steps=4, validate_episodes=8, out=run, progress=False)
    return run, kshot.load(run), images(7, 3), kshot.evaluate(learner, images(7, 3), 12)


@pytest.fixture(params=["regression", "classification"])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.getfixturevalue(request.param)
    return found


def test_a_page_and_a_picture(run: Run) -> None:
    path = write_report(*run)
    assert path == run[0] / "report.html"
    page, picture = path.read_text(), (run[0] / "report.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    mean, interval, _ = with_interval(run[3], run[3].metric)
    assert f"<b>{mean} <span>± {interval}" in page
    for title in ("One episode", "Training", "Adaptation", "The run in numbers", "To go on"):
        assert f"<h2>{title}" in page
    assert f"{sum(p.numel() for p in run[1].parameters()):,}" in page
    assert torch.__version__ in page


def test_nothing_is_fetched(run: Run) -> None:
    page = write_report(*run).read_text()
    for attribute, value in re.findall(r'\b(src|href|srcset|data|action)="([^"]*)"', page):
        assert value.startswith(("data:image/png;base64,", "#")), (attribute, value[:60])
    assert not re.search(r"<(script|link|iframe|object|embed)\b|@import|url\((?!#)", page)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)


def test_figures_have_unlike_names(run: Run) -> None:
    names = re.findall(r'\bid="([^"]+)"', write_report(*run).read_text())
    assert len(names) == len(set(names))


def test_the_same_inputs_give_the_same_bytes(run: Run) -> None:
    path = write_report(*run)
    before = path.read_bytes(), path.with_suffix(".png").read_bytes()
    torch.rand(3)
    write_report(*run)
    assert before == (path.read_bytes(), path.with_suffix(".png").read_bytes())


def test_the_learner_and_the_random_state_stay(run: Run) -> None:
    learner = run[1].train()
    state = torch.get_rng_state()
    write_report(run[0], learner, run[2], run[3])
    assert learner.training
    assert torch.equal(state, torch.get_rng_state())
    learner.eval()


def test_predictions_of_images_are_the_learners(classification: Run) -> None:
    _, learner, tasks, found = classification
    task = nth_task(tasks, found.seed, typical(found))
    outputs = learner.predict(learner.adapt(task.support), task.query.x)
    expected = []
    for logits, y in zip(outputs.softmax(-1), task.query.y, strict=True):
        c = int(logits.argmax())
        verdict = "right" if c == int(y) else "wrong"
        expected.append(f"query of class {'ABC'[int(y)]}, predicted {'ABC'[c]} with {100 * logits[c]:.0f} %, {verdict}")
    page = write_report(*classification).read_text()
    assert re.findall(r'alt="(query [^"]*)"', page) == expected
    assert page.count('alt="support example') == 6
    assert page.count('<li class="wrong">') == sum("wrong" in text for text in expected)


def test_predictions_of_a_function_are_the_learners(regression: Run) -> None:
    _, learner, tasks, found = regression
    episode = draw_episode(learner, tasks, 5, found)
    task = nth_task(tasks, found.seed, typical(found))
    grid = episode.grid.unsqueeze(1)
    path = learner.trajectory(task.support, 5)
    curves = {c.label: c.values for c in episode.curves}
    assert list(curves) == ["before", "after 5 steps", "after 1 step"]
    for label, step in (("before", 0), ("after 1 step", 1), ("after 5 steps", 5)):
        torch.testing.assert_close(curves[label], learner.predict(path[step], grid).detach().flatten())
    torch.testing.assert_close(episode.outputs, learner.predict(learner.adapt(task.support), task.query.x).detach())


def test_the_episode_is_the_measured_task_that_is_nearest_to_the_mean(classification: Run) -> None:
    """Its accuracy is the one that the evaluation found for it."""
    _, learner, tasks, found = classification
    episode = draw_episode(learner, tasks, 5, found)
    assert sum(episode.right) / len(episode.right) == min(found.values, key=lambda value: abs(value - found.mean))
    values = [math.nan, 3.0, 1.0, math.inf, 2.0]
    assert typical(dataclasses.replace(found, values=values, mean=2.1)) == 4
    assert typical(dataclasses.replace(found, values=values, mean=math.inf)) == 0


def test_user_text_is_escaped(classification: Run) -> None:
    bad = '<script>alert("$x_{1")</script>&'
    page = write_report(*classification, title=bad, recipe={"tasks": {"name": bad, bad: bad}, "about": bad}).read_text()
    assert "<script" not in page
    assert page.count(html.escape(bad)) >= 4


def test_curves_that_were_not_measured_are_left_out(regression: Run, classification: Run) -> None:
    stepwise = write_report(*regression).read_text()
    assert "inner steps" in stepwise
    assert "Reliability" not in stepwise
    assert classification[3].steps_curve is None
    page = write_report(*classification).read_text()
    assert "inner steps" not in page
    assert "shots, examples of a class" in page
    assert "Reliability" in page
    bare = dataclasses.replace(classification[3], shots_curve=None, calibration=None)
    page = write_report(*classification[:3], bare).read_text()
    assert "shots, examples of a class" not in page
    assert "Reliability" not in page


def test_numbers_that_are_none(tmp_path: Path, classification: Run) -> None:
    nan = math.nan
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "loss": NaN}\n{"step": 2, "loss": null, "val_accuracy": Infinity}\n[]\n{"loss": 3}\n{"step": 3, "l'
    )
    evaluation = dataclasses.replace(
        classification[3],
        mean=nan,
        interval=nan,
        values=[nan, nan],
        adapt_ms=nan,
        calibration=Calibration(nan, [(nan, nan, nan)]),
        shots_curve=[dataclasses.replace(p, mean=nan) for p in classification[3].shots_curve or []],
    )
    page = write_report(tmp_path, *classification[1:3], evaluation).read_text()
    assert "<b>not a number" in page
    assert "<h2>Training" not in page


def test_an_empty_folder_and_data_of_other_kinds(tmp_path: Path) -> None:
    class Vectors:
        def sample(self, n: int, generator: torch.Generator) -> Task:
            x = torch.randn(n, 12, 4, generator=generator)
            y = x[..., :2] * torch.randn(n, 1, 2, generator=generator)
            return Task(Batch(x[:, :6], y[:, :6]), Batch(x[:, 6:], y[:, 6:]))

    learner = kshot.MAML(MLP(4, (8,), 2), loss=mse_loss)
    page = write_report(tmp_path, learner, Vectors(), kshot.evaluate(learner, Vectors(), 4)).read_text()
    assert "difference" in page
    x, y = torch.randn(60, 4), torch.arange(6).repeat_interleave(10)
    tasks = Episodes((x, y), ways=(2, 4), shots=(1, 3), queries=3)
    baseline = kshot.NearestCentroid()
    page = write_report(tmp_path, baseline, tasks, kshot.evaluate(baseline, tasks, 4)).read_text()
    assert "2–4-way 1–3-shot" in page
    assert "probability" in page
    assert "kshot adapt" not in page


def test_the_python_lines_run(run: Run) -> None:
    page = write_report(*run).read_text()
    found = re.search(r'<code id="python">(.*?)</code>', page, re.DOTALL)
    assert found is not None
    scope: dict[str, Any] = {}
    exec(html.unescape(found[1]), scope)
    outputs: Tensor = scope["outputs"]
    assert len(outputs) == 3


def test_the_commands_name_the_run(classification: Run, regression: Run) -> None:
    images_page, page = (html.unescape(write_report(*r).read_text()) for r in (classification, regression))
    assert f"kshot evaluate '{regression[0]}'" in page  # its name has a blank
    assert f"kshot adapt {classification[0]} --support DIR --query DIR --out predictions.csv" in images_page


def test_seen_classes_are_called_seen(tmp_path: Path, classification: Run) -> None:
    _, learner, tasks, evaluation = classification
    assert "tasks of 7 unseen classes" in write_report(tmp_path, learner, tasks, evaluation).read_text()
    page = write_report(tmp_path, learner, images(8, 1), evaluation).read_text()
    assert "classes were seen in training (8 of 8)" in page


def test_without_matplotlib(regression: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError("No module named 'matplotlib'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=re.escape('pip install "kshot[report]"')):
        write_report(*regression)


def test_the_callers_matplotlib_settings_stay(regression: Run) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 31, "axes.facecolor": "red"}):
        before, page = dict(matplotlib.rcParams), write_report(*regression)
        assert dict(matplotlib.rcParams) == before
        red = page.read_bytes()
    assert red == write_report(*regression).read_bytes()


def test_wrong_folders(tmp_path: Path, regression: Run) -> None:
    with pytest.raises(InputError, match="not the folder of a run"):
        write_report(tmp_path / "none", *regression[1:])
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        write_report(tmp_path, *regression[1:])


def test_figures_in_words() -> None:
    facts = Facts({"training": {"meta_batch": 4}}, [{"step": 10, "seconds": 20.0}, {"step": 20, "seconds": 100.0}])
    assert facts.seconds() == 100
    assert [duration(s) for s in (0.2, 7, 300, 9000, None)] == ["under 1 s", "7 s", "5 min", "2.5 h", "—"]
    evaluation = Evaluation("accuracy", 0.98314, 0.0021, [], 600, 0, False, 1.0)
    assert with_interval(evaluation, "accuracy") == ("98.31", "0.21", "%")
    assert with_interval(dataclasses.replace(evaluation, interval=0.0), "mse") == ("0.98", "0.00", "")
    assert with_interval(Point(5, 0.00042, 0.00003), "mse") == ("0.000420", "0.000030", "")
    assert json.loads(json.dumps(facts.settings({"about": "x", "tasks": {"ways": 5}}))) == {
        "tasks": {"ways": "5"},
        "training": {"meta_batch": "4"},
    }
