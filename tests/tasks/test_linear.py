"""Linear regressions: the task of each is recovered exactly, and its curvature is the one that was asked for."""

import math

import pytest
import torch

import kshot
from kshot.learner import mse_loss
from kshot.tasks import SOURCES
from kshot.tasks.linear import LinearRegressions
from kshot.types import InputError, check_task, seeded


def solved(task):
    """Least squares: (w, b) of one task [d + 1, 1], from its support."""
    x = torch.cat([task.support.x, torch.ones(len(task.support), 1)], 1).double()
    return torch.linalg.lstsq(x, task.support.y.double()).solution


def test_each_task_is_linear_and_its_own():
    tasks = LinearRegressions(shots=8, queries=6, inputs=3).sample(300, seeded(0))
    check_task(tasks, axes=1)
    assert tasks.support.x.shape == (300, 8, 3)
    assert tasks.query.y.shape == (300, 6, 1)
    assert tasks.support.ways is tasks.classes is None
    found = torch.stack([solved(task) for task in tasks])  # [T, d + 1, 1]
    ones = torch.ones(300, 6, 1)
    predicted = torch.cat([tasks.query.x, ones], 2).double() @ found
    torch.testing.assert_close(predicted, tasks.query.y.double(), rtol=1e-3, atol=1e-3)
    assert found.mean(0).abs().max() < 0.2  # w and b are standard normal
    assert (found.std(0) - 1).abs().max() < 0.15


def test_the_scale_of_each_feature_is_log_uniform():
    x = LinearRegressions(shots=400, queries=1, inputs=2, scale=(0.1, 10.0)).sample(500, seeded(1)).support.x
    exponent = x.std(1).log10().flatten()  # [T · d], uniform in -1..1
    assert -1.15 < exponent.min() < -0.95
    assert 0.95 < exponent.max() < 1.15
    assert abs(float(exponent.mean())) < 0.06
    assert abs(float(exponent.std()) - 1 / math.sqrt(3)) < 0.03
    assert abs(float(torch.corrcoef(x.std(1).log10().T)[0, 1])) < 0.15  # a feature's scale says nothing of another's


def test_noise_is_on_the_support_alone():
    clean, noisy = (LinearRegressions(50, 50, noise=noise).sample(200, seeded(2)) for noise in (0.0, 0.5))
    assert torch.equal(clean.query.y, noisy.query.y)
    assert torch.equal(clean.support.x, noisy.support.x)
    assert abs(float((noisy.support.y - clean.support.y).std()) - 0.5) < 0.01


def test_the_generator_decides_and_with_shots_changes_only_the_shots():
    source = LinearRegressions(4, 7, inputs=3, noise=0.1, scale=(1.0, 2.0))
    assert torch.equal(source.sample(3, seeded(3)).query.y, source.sample(3, seeded(3)).query.y)
    more = source.with_shots(9)
    assert (more.shots, more.queries, more.inputs, more.noise, more.scale) == (9, 7, 3, 0.1, (1.0, 2.0))
    assert more.sample(2, seeded(0)).support.x.shape == (2, 9, 3)


def test_a_learner_learns_from_them():
    torch.manual_seed(0)
    source = SOURCES["linear"](shots=10, inputs=2, scale=[1.0, 1.0])  # a list, as in a recipe
    learner = kshot.MAML(kshot.models.MLP(2, (), 1), loss=mse_loss, rule=kshot.rules.SGD(0.1), steps=5)
    before = kshot.evaluate(learner, source, 100, curves=False).mean
    kshot.fit(learner, source, steps=100, meta_batch=8, lr=0.03, progress=False)
    assert kshot.evaluate(learner, source, 100, curves=False).mean < before


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"shots": 0}, "shots=0"),
        ({"queries": 1.5}, "queries=1.5"),
        ({"inputs": 0}, "inputs=0"),
        ({"noise": -0.1}, "noise=-0.1"),
        ({"noise": math.nan}, "noise=nan"),
        ({"scale": (0.0, 1.0)}, r"scale=\(0.0, 1.0\)"),
        ({"scale": (2.0, 1.0)}, r"scale=\(2.0, 1.0\)"),
        ({"scale": 1.0}, "scale=1.0"),
        ({"scale": ("low", "high")}, "scale=.*low"),
    ],
)
def test_settings_that_are_refused(settings, says):
    with pytest.raises(InputError, match=says):
        LinearRegressions(**settings)
