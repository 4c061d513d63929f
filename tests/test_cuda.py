"""Every learner on a GPU, against itself on the CPU; all that the laws say of one device then holds on the other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import kshot
from kshot import Task, recipes, rl
from kshot.learner import mse_loss
from kshot.memory import available_memory, peak_memory
from kshot.models import MLP, GaussianPolicy, HashedText
from kshot.rules import SGD
from kshot.tasks import Intents, Sinusoids
from tests.conftest import write_intents
from tests.test_hypergradients import EXACT, MODELS, of_images
from tests.test_laws import CASES, Case, gradients

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.mark.parametrize("way", ["loop", "vmap"])
def test_meta_gradients_are_those_of_the_cpu(case: Case, way: str) -> None:
    learner, tasks = case.build(), case.tasks(tasks=3)
    wanted = gradients(learner, tasks, "loop")
    learner.cuda()
    for name, g in gradients(learner, tasks.to("cuda"), way).items():
        assert g.is_cuda
        torch.testing.assert_close(g.cpu(), wanted[name], rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("way", ["loop", "vmap"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("how", [*EXACT, "truncated:1", "implicit:cg", "finite-difference"])
def test_hypergradients_are_those_of_the_cpu(how: str, model: str, way: str) -> None:
    learner, tasks = of_images(model, rule=SGD(0.1), hypergradient=how)
    wanted = gradients(learner, tasks, "loop")
    learner.cuda()
    for name, g in gradients(learner, tasks.to("cuda"), way).items():
        torch.testing.assert_close(g.cpu(), wanted[name], rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_predictions_are_those_of_the_cpu(case: Case) -> None:
    learner, task = case.build().eval(), case.tasks()[0]
    with torch.no_grad():
        wanted = learner(task.support, task.query.x)
        task = task.to("cuda")
        found = learner.cuda()(task.support, task.query.x)
    torch.testing.assert_close(found.cpu(), wanted, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", [n for n in recipes.names() if n.startswith(("glyphs", "sinusoid"))])
def test_recipes_train_validate_and_load(name: str, tmp_path: Path) -> None:
    few = ["training.steps=2", "training.meta_batch=2", "training.validate_episodes=4"]
    recipe = recipes.read(name, few)
    learner = recipe.learner()
    if any(p.requires_grad for p in learner.parameters()):
        kshot.fit(
            learner,
            recipe.tasks("train"),
            validate=recipe.tasks("val"),
            out=tmp_path,
            progress=False,
            **{**recipe.training, "device": "auto"},
        )
        assert all(p.is_cuda for p in learner.parameters())
        assert not any(p.is_cuda for p in kshot.load(tmp_path).parameters())
    kshot.evaluate(learner.cuda(), recipe.tasks("test"), 4, curves=False)


class Cut(Sinusoids):
    """Its fifth draw fails, the first time round."""

    def __init__(self) -> None:
        super().__init__()
        self._left = 4

    def sample(self, n: int, generator: torch.Generator) -> Task:
        self._left -= 1
        if self._left == -1:
            raise ConnectionError
        return super().sample(n, generator)


def test_a_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    def train(tasks: Sinusoids, out: Path) -> kshot.MetaLearner:
        torch.manual_seed(0)
        learner = kshot.MAML(MLP(1, (8,), 1), loss=mse_loss, rule=SGD(0.01, learn="tensor"))
        return kshot.fit(
            learner,
            tasks,
            steps=6,
            meta_batch=4,
            save_every=2,
            out=out,
            progress=False,
            device="cuda",
            vectorize="vmap",
        )

    cut = Cut()
    with pytest.raises(ConnectionError):
        train(cut, tmp_path / "cut")
    resumed, whole = train(cut, tmp_path / "cut"), train(Sinusoids(), tmp_path / "whole")
    for a, b in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert a.is_cuda
        assert torch.equal(a, b)


def test_words_and_agents(tmp_path: Path) -> None:
    write_intents(tmp_path)
    intents = Intents(ways=3, queries=2, dataset="SMALL", root=tmp_path)
    words = kshot.ProtoNet(HashedText(width=8))
    kshot.fit(words, intents, steps=2, meta_batch=2, progress=False, device="cuda")
    agent = kshot.PolicyMAML(GaussianPolicy(2, 2, (8,), std=0.1), rule=SGD(0.01))
    family = rl.Navigation(4, 4, horizon=10)
    rl.fit(agent, family, steps=2, meta_batch=3, vectorize="vmap", progress=False, device="cuda")
    assert rl.evaluate(agent, family, episodes=4, curve_episodes=2).mean < 0


def test_peak_memory_is_what_the_gpu_allocates() -> None:
    def run() -> None:
        a = torch.zeros(1_000_000, device="cuda")  # 4 MB
        b = a + 1  # 8 MB at most
        del a
        b.mul_(2)

    assert peak_memory(run, "cuda") == pytest.approx(8e6, rel=0.1)
    assert 0 < available_memory("cuda") < float("inf")
    found = kshot.diagnose(kshot.MAML(MLP(1, (40, 40), 1), loss="mse", steps=3).cuda(), Sinusoids(), count=2)
    for mode in found.modes:
        assert mode.forecast is not None
        assert mode.forecast.measured == pytest.approx(mode.forecast.bytes, rel=0.2)
