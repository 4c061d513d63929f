"""The report of an agent: trajectories where they can be drawn, and lines of Python that run as they stand."""

from __future__ import annotations

import html
import re
from pathlib import Path

import torch
from torch import Tensor

import kshot
from kshot import rl
from kshot.models import GaussianPolicy
from kshot.report import write_report
from kshot.rules import SGD


class Unseen(rl.Navigation):
    """A family of which nothing can be drawn."""

    def plane(self, tasks: Tensor, trajectories: rl.Trajectories) -> None:  # type: ignore[override]
        return None


def page(family: rl.Navigation, out: Path) -> str:
    torch.manual_seed(0)
    learner = kshot.PolicyMAML(GaussianPolicy(2, 2, (8,), std=0.1), rule=SGD(0.005))
    rl.fit(learner, family, validate=family, out=out, steps=3, meta_batch=2, validate_episodes=2, progress=False)
    found = rl.evaluate(learner, family, 4, curve_episodes=2)
    return write_report(out, learner, family, found, recipe={"tasks": {"name": "navigation"}}).read_text()


def test_the_page_shows_trajectories_and_goes_on(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    text = page(rl.Navigation(2, 2, horizon=5), tmp_path / "run")
    for words in (
        "Before and after adapting",
        "adapting from 2 trajectories",
        "Return against the number",
        "6 tasks. 30",
    ):
        assert words in text, words
    assert "transductive: " not in text
    assert (tmp_path / "run" / "report.png").stat().st_size > 20_000
    lines = re.search(r'<code id="python">(.*?)</code>', text, re.DOTALL)
    assert lines is not None
    short = html.unescape(lines[1]).replace("]()", "](2, 2, horizon=5)")
    exec(short, {})
    assert "return −" in capsys.readouterr().out.replace("-", "−")


def test_without_a_plane_there_is_no_picture_of_it(tmp_path: Path) -> None:
    assert "Before and after adapting" not in page(Unseen(2, 2, horizon=5), tmp_path)
