"""MAML for policies: learn a task from the trajectories of an agent that tried it.

A Batch of trajectories: x are observations [S, O] of S steps; y [S, A + 2] holds, of each step, the A numbers of the action,
its advantage, and its log-probability under the policy that acted. Steps after the end of a trajectory have advantage 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from kshot.functional import Params
from kshot.hypergradients import Hypergradient, Objective
from kshot.learners.gradient import GradientLearner
from kshot.rules import Rule
from kshot.types import Batch, InputError, Task


class PolicyMAML(GradientLearner):
    """Learn a policy from which a few policy-gradient steps on a task's trajectories do well on that task.

    Finn, Abbeel, Levine 2017, Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks (section 5.3).
    Algorithm: for each task φ = θ + α∇ mean(ratio · advantage) on trajectories of θ; then θ goes up the gradient of
    mean(min(ratio · advantage, clipped ratio · advantage)) on trajectories of φ, where ratio = π(a|x) / π_acted(a|x).
    Differs: the outer step is PPO's clipped surrogate (Schulman 2017) and not TRPO. The inner objective has the ratio in place
    of the log-probability: the same gradient where the policy that acted is asked, the right curvature for the
    meta-gradient (Rothfuss 2019, ProMP), and further steps on the same trajectories stay right too.

    model: observations [S, O] -> [S, 2A], means and logarithms of standard deviations, such as models.GaussianPolicy.
    clip: how far from 1 the outer ratio still counts.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        clip: float = 0.2,
        rule: Rule | None = None,
        steps: int = 1,
        eval_steps: int | None = None,
        adapted: str | Sequence[str] = "*",
        hypergradient: str | Hypergradient = "unrolled",
        allow_unused: bool = False,
    ) -> None:
        super().__init__(
            model,
            loss=surrogate,
            rule=rule,
            steps=steps,
            eval_steps=eval_steps,
            adapted=adapted,
            hypergradient=hypergradient,
            allow_unused=allow_unused,
        )
        if not isinstance(clip, int | float) or not 0 < clip < math.inf:
            raise InputError(
                f"clip={clip!r}: how far the ratio of probabilities may go from 1, give a number such as 0.2"
            )
        self.clip = clip

    def outer(self, task: Task) -> Tensor:
        outputs = self.predict(self.adapt(task.support), task.query.x)
        _check(outputs, task.query)
        return surrogate(outputs, task.query.y, self.clip)

    def walk(self, support: Batch, steps: int) -> Iterator[Params]:
        _check_values(support)
        return super().walk(support, steps)

    def judge(self, outputs: Tensor, batch: Batch) -> Tensor:
        _check(outputs, batch)
        return self.criterion(outputs, batch.y)

    def unadapted(self) -> Params:
        """What was fitted before anything was seen: the policy that collects the support's trajectories."""
        return {}  # the model's own parameters

    def further(self, fitted: Params, support: Batch) -> Params:
        """One step from `fitted`, on trajectories that it collected; the rule's state begins anew.

        The first is the whole step that was trained, later ones go half as far: Finn 2017 halves the rate there.
        """
        objective: Objective = lambda params, _: self.judge(self.predict(params, support.x), support)  # noqa: E731
        before, after = self._way.descend(objective, {**self.start(), **fitted}, self.rule, 1)
        return {name: before[name].lerp(after[name], 0.5) for name in after} if fitted else after

    def act(self, outputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Outputs [..., 2A] -> actions drawn from them [..., A], and their log-probabilities [...]."""
        mean, log_std = outputs.chunk(2, -1)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)
        actions = mean + log_std.exp() * noise
        return actions, log_probability(outputs, actions)


def log_probability(outputs: Tensor, actions: Tensor) -> Tensor:
    """Outputs [..., 2A], actions [..., A] -> log of the Gaussian density [...]."""
    mean, log_std = outputs.chunk(2, -1)
    scaled = (actions - mean) * (-log_std).exp()
    return -(scaled.square() / 2 + log_std + math.log(2 * math.pi) / 2).sum(-1)


def surrogate(outputs: Tensor, y: Tensor, clip: float | None = None) -> Tensor:
    """−mean(ratio · advantage); with `clip`, PPO's pessimistic bound on it. outputs [S, 2A], y [S, A + 2]."""
    actions, advantage, acted = y[..., :-2], y[..., -2], y[..., -1]
    ratio = (log_probability(outputs, actions) - acted).exp()
    gain = ratio * advantage
    if clip is not None:
        gain = torch.minimum(gain, ratio.clamp(1 - clip, 1 + clip) * advantage)
    return -gain.mean()


def _check_values(batch: Batch) -> None:
    if getattr(batch, "ways", None) is not None:
        raise InputError(
            f"a policy learns from trajectories and this task has {batch.ways} classes: give it a family of environments, "
            "such as kshot.rl.Navigation, or take another learner, such as kshot.MAML"
        )


def _check(outputs: Tensor, batch: Batch) -> None:
    """Shapes, which are known even under vmap."""
    _check_values(batch)
    actions = outputs.shape[-1] // 2
    if outputs.ndim != 2 or outputs.shape[1] != 2 * actions or batch.y.shape != (len(outputs), actions + 2):
        raise InputError(
            f"the policy gives outputs of shape {tuple(outputs.shape)}, means and log-deviations of {actions} actions, for y of "
            f"shape {tuple(batch.y.shape)}, needed ({len(outputs)}, {actions} + 2): actions, advantage and log-probability; "
            "make the two alike"
        )
