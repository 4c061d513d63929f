"""Rules against torch.optim, step by step in float64, and their learned hyperparameters against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kshot
from kshot import InputError, meta_loss
from kshot.models import MLP
from kshot.rules import SGD
from tests.conftest import classification
from tests.test_laws import claim_exact, gradients

SETTINGS = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "weight_decay": 0.01},
    {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.1, "nesterov": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_sgd_is_torch_optims_step_by_step(settings: dict[str, float]) -> None:
    theirs = [nn.Parameter(torch.randn(3, 4, dtype=torch.float64)), nn.Parameter(torch.randn(4, dtype=torch.float64))]
    ours = {str(i): p.detach().clone() for i, p in enumerate(theirs)}
    optimizer, rule = torch.optim.SGD(theirs, **settings), SGD(**settings)  # type: ignore[arg-type]
    state = rule.init(ours)
    for _ in range(6):
        grads = {name: torch.randn_like(p) for name, p in ours.items()}
        for p, g in zip(theirs, grads.values(), strict=True):
            p.grad = g
        optimizer.step()
        ours, state = rule.step(ours, grads, state)
        for p, q in zip(theirs, ours.values(), strict=True):
            torch.testing.assert_close(q, p.detach(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("learn", ["one", "tensor", "parameter", "step", "tensor-step"])
def test_learned_rates_start_at_lr_and_have_exact_gradients(learn: str) -> None:
    tasks, steps = classification(), 3
    learner = kshot.MAML(MLP(4, (5,), 3).double(), rule=SGD(0.1, learn=learn, momentum=0.5), steps=steps)  # type: ignore[arg-type]
    fixed = kshot.MAML(learner.model, rule=SGD(0.1, momentum=0.5), steps=steps)
    torch.testing.assert_close(meta_loss(learner, tasks), meta_loss(fixed, tasks), rtol=1e-12, atol=1e-12)
    tensors, weights = 4, sum(p.numel() for p in learner.model.parameters())
    sizes = {"one": 1, "tensor": tensors, "parameter": weights, "step": steps, "tensor-step": tensors * steps}
    assert sum(r.numel() for r in learner.rule.parameters()) == sizes[learn]
    claim_exact(learner, tasks, gradients(learner, tasks, "vmap"))


def test_steps_past_the_last_use_the_last_rate() -> None:
    rule = SGD(1.0, learn="step")
    start = {"p": torch.zeros(1)}
    rule.prepare(start, steps=2)
    with torch.no_grad():
        rule.rates["all"].copy_(torch.tensor([1.0, 10.0]))
    params, state, path = start, rule.init(start), []
    for _ in range(4):
        params, state = rule.step(params, {"p": torch.ones(1)}, state)
        path.append(params["p"].item())
    assert path == [-1, -11, -21, -31]


def test_a_rule_that_was_not_prepared_says_so() -> None:
    rule = SGD(0.1, learn="tensor")
    params = {"p": torch.zeros(1)}
    with pytest.raises(InputError, match="prepare"):
        rule.step(params, params, rule.init(params))


def test_meta_gradient_by_hand() -> None:
    """Half-square loss: θ = 0.1 to 3.0 in one step of 0.1 leaves 0.9 of the distance, so dL/dθ = 0.9 · 0.9 · (0.1 − 3.0)."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.theta = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.theta.expand(len(x), 1)

    def half_square(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (outputs - y).square().mean() / 2

    batch = kshot.Batch(torch.zeros(1, 2, 1, dtype=torch.float64), torch.full((1, 2, 1), 3.0, dtype=torch.float64))
    for make, wanted in ((kshot.MAML, 0.9 * 0.9 * (0.1 - 3.0)), (kshot.FOMAML, 0.9 * (0.1 - 3.0))):
        learner = make(Constant(), loss=half_square, rule=SGD(0.1))
        meta_loss(learner, kshot.Task(batch, batch)).backward()
        assert learner.model.theta.grad.item() == pytest.approx(wanted, rel=1e-12)  # type: ignore[union-attr]
