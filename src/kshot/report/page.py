"""write_report: a run folder as one HTML file that needs nothing else, and one picture."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from kshot import atomic
from kshot.audit import overlap
from kshot.evaluation import Evaluation
from kshot.learner import MetaLearner
from kshot.report.canvas import need_matplotlib
from kshot.report.episode import Episode, count, draw_episode
from kshot.report.facts import Reference, read_facts
from kshot.report.going_on import going_on
from kshot.report.look import CSS
from kshot.report.picture import picture
from kshot.report.rests_on import rests_on
from kshot.report.sections import Report, adaptation, headline, learner_name, tables, training
from kshot.report.showing import episode_section
from kshot.report.trajectories import draw_trajectories
from kshot.rl import Family
from kshot.types import TaskSource, identities
from kshot.version import __version__

PAGE, PICTURE = "report.html", "report.png"
STEPS = 10  # followed in the episode where no steps curve says how many


def write_report(
    run: Path,
    learner: MetaLearner,
    tasks: TaskSource | Family,
    evaluation: Evaluation,
    *,
    title: str = "",
    recipe: Mapping[str, Any] | None = None,
) -> Path:
    """Write run/report.html and run/report.png, and return the path of the page. The same inputs give the same bytes.

    learner, tasks, evaluation: what evaluate was given, and what it found.
    title: default, the learner and the kind of task.
    recipe: settings to show that run.json does not hold, such as those of the tasks.
    """
    need_matplotlib()
    run, curve = Path(run), evaluation.steps_curve
    facts, known = read_facts(run), recipe or {}
    if isinstance(tasks, Family):
        episode = draw_trajectories(learner, tasks)
    else:
        episode = draw_episode(learner, tasks, curve[-1].at if curve else STEPS, evaluation)
    setting = _setting(tasks, episode)
    report = Report(
        run=run,
        title=title or f"{learner_name(learner)}, {setting}",
        setting=setting,
        learner=learner,
        evaluation=evaluation,
        episode=episode,
        facts=facts,
        recipe=known,
        source=_source(tasks, known),
        unseen=_unseen(learner, tasks),
        reference=_chance(tasks, episode, evaluation.metric),
    )
    page = _page(report)
    atomic.write(run / PICTURE, picture(facts, episode, evaluation, report.title, setting, report.reference))
    atomic.write(run / PAGE, page)
    return run / PAGE


def _page(r: Report) -> str:
    body = headline(r) + episode_section(r) + training(r) + adaptation(r) + rests_on(r) + tables(r) + going_on(r)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(r.title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n{body}\n"
        f"<footer>Written by kshot {escape(__version__)} from {escape(str(r.run))}.</footer>\n</body>\n</html>\n"
    )


def _source(tasks: TaskSource | Family, recipe: Mapping[str, Any]) -> str:
    settings = recipe.get("tasks")
    name = settings.get("name") if isinstance(settings, Mapping) else None
    return str(name or type(tasks).__name__)


def _setting(tasks: TaskSource | Family, episode: Episode) -> str:
    """'5-way 1-shot classification'; ranges where the source draws from them."""
    if isinstance(tasks, Family):
        return f"adapting from {count(tasks.shots, 'trajectory', 'trajectories')}"

    def asked(name: str, found: object) -> object:
        value = getattr(tasks, name, found)
        return "–".join(map(str, value)) if isinstance(value, tuple | list) else found

    shots = asked("shots", episode.shots)
    return (
        f"{asked('ways', episode.ways)}-way {shots}-shot classification" if episode.ways else f"{shots}-shot regression"
    )


def _unseen(learner: MetaLearner, tasks: TaskSource | Family) -> str:
    """'tasks of 100 unseen classes', or what is true instead."""
    classes = identities(tasks)
    seen = len(overlap(learner.seen, classes))
    if not classes:
        return "unseen tasks"
    if seen:
        return f"tasks whose classes were seen in training ({seen:,} of {len(classes):,})"
    return f"tasks of {len(classes):,} unseen classes"


def _chance(tasks: TaskSource | Family, episode: Episode, metric: str) -> Reference:
    """What guessing gives, where each task has the same number of classes."""
    ways = getattr(tasks, "ways", episode.ways)
    if metric != "accuracy" or not isinstance(ways, int) or ways < 2:
        return None
    return "chance", 1 / ways
