"""kshot's meta-gradients against those of TorchOpt, higher and plain torch.autograd; its metric learners against easyfsl's.

    python benchmarks/meta_gradients.py

Float64, the same weights and tasks for all. A row's `difference` is the largest absolute one over all parameters (or
logits) and must not exceed 1e-9, else the exit code is 1; `largest` is the peer's largest entry, for scale.
`second_order` tells how far the exact meta-gradient lies from the first-order one: a comparison that could not tell
these two apart would prove nothing. Writes results/meta-gradients.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from evidence import record
from peers import BETAS, FIRST_ORDER, UNROLLED, Examples, Loss, Peer, easyfsl_method, with_higher_learned_rates
from torch import Tensor, nn

import kshot
from kshot.learner import mse_loss
from kshot.models import MLP, Conv4
from kshot.tasks import Sinusoids
from kshot.vectorize import Way, pieces

TOLERANCE = 1e-9
WAYS: tuple[Way, ...] = ("loop", "vmap")
STEPS = (1, 3, 5)
TASKS = 3

# Rules that divide by the gradient's size. They are compared on a network of their own, without units whose gradient is
# zero (an inactive ReLU) or rounding alone (a bias before batch norm): there TorchOpt gives NaN, and higher masks.
ADAPTIVE = ("adam", "adamw", "rmsprop")


def with_rule(rule: str) -> dict[str, Peer]:
    """The peers that have this inner rule; higher has no AdamW, and adds Adam's eps before it corrects the bias."""
    names = ("torchopt",) if rule in ("adam", "adamw") else ("torchopt", "higher")
    return {name: partial(UNROLLED[name], rule=rule) for name in names}


# Name: (constructor, the submodule that moves, the inner rule, what the peers do)
LEARNERS: dict[str, tuple[Callable[..., kshot.MAML], str, str, dict[str, Peer]]] = {
    "MAML": (kshot.MAML, "", "sgd", UNROLLED),
    "ANIL": (kshot.ANIL, "head", "sgd", UNROLLED),
    "BOIL": (kshot.BOIL, "body", "sgd", UNROLLED),
    "FOMAML": (kshot.FOMAML, "", "sgd", FIRST_ORDER),
    "MAML, momentum": (kshot.MAML, "", "momentum", with_rule("momentum")),
    "MAML, Adam": (kshot.MAML, "", "adam", with_rule("adam")),
    "MAML, AdamW": (kshot.MAML, "", "adamw", with_rule("adamw")),
    "MAML, RMSprop": (kshot.MAML, "", "rmsprop", with_rule("rmsprop")),
}


@dataclass(frozen=True)
class Problem:
    """A model and tasks. The peers get `loss`, kshot its own: F.mse_loss and kshot's mse_loss are to be the same."""

    model: nn.Module
    tasks: kshot.Task
    lr: float
    loss: Loss = F.cross_entropy
    kshot_loss: Loss = F.cross_entropy


def problems(seed: int) -> dict[str, Problem]:
    torch.manual_seed(seed)  # initial weights
    generator = torch.Generator().manual_seed(seed)
    sinusoids = Sinusoids(shots=10, queries=10).sample(TASKS, generator)
    return {
        "sinusoid, MLP 40-40": Problem(
            _noisy(MLP(1, (40, 40), 1)), _double(sinusoids), 0.002, loss=F.mse_loss, kshot_loss=mse_loss
        ),
        "5-way 1-shot, Conv4-8, batch norm, pool": Problem(
            _noisy(Conv4(5, width=8)), _random(generator, 1, 3, 1, 28, 28), 0.1
        ),
        "5-way 1-shot, Conv4-8, batch norm, stride": Problem(
            _noisy(Conv4(5, width=8, down="stride")), _random(generator, 1, 3, 1, 28, 28), 0.1
        ),
        "5-way 5-shot, tanh MLP 64": Problem(
            _noisy(nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 5))), _random(generator, 5, 5, 20), 0.01
        ),
        "5-way 5-shot, MLP 64-64": Problem(_noisy(MLP(20, (64, 64), 5)), _random(generator, 5, 5, 20), 0.1),
    }


def _noisy(model: nn.Module) -> nn.Module:
    """In float64, a little off its initial weights: with biases of exactly zero a ReLU may sit on its kink."""
    model = model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def _random(generator: torch.Generator, shots: int, queries: int, *features: int, ways: int = 5) -> kshot.Task:
    """Noise around a centre for each class of each task."""
    centres = torch.rand(TASKS, 1, ways, *features, generator=generator, dtype=torch.float64)

    def batch(count: int) -> kshot.Batch:
        noise = torch.randn(TASKS, count, ways, *features, generator=generator, dtype=torch.float64)
        y = torch.arange(ways).expand(TASKS, count, ways).flatten(1)
        return kshot.Batch((centres + 0.3 * noise).flatten(1, 2), y, ways)

    return kshot.Task(batch(shots), batch(queries))


def _double(tasks: kshot.Task) -> kshot.Task:
    s, q = tasks.support, tasks.query
    return kshot.Task(kshot.Batch(s.x.double(), s.y.double()), kshot.Batch(q.x.double(), q.y.double()))


def ours(problem: Problem, make: Callable[..., kshot.MAML], rule: str, steps: int, way: Way) -> list[Tensor]:
    inner = kshot.rules.RULES[rule](lr=problem.lr, **({"beta1": BETAS[0], "beta2": BETAS[1]} if "adam" in rule else {}))
    learner = make(deepcopy(problem.model), loss=problem.kshot_loss, rule=inner, steps=steps)
    kshot.meta_loss(learner, problem.tasks, vectorize=way).backward()
    return _grads(learner.model)


def theirs(problem: Problem, peer: Peer, steps: int, part: str) -> list[Tensor]:
    model = deepcopy(problem.model)
    inner = model.get_submodule(part)
    peer(model, inner, problem.loss, examples(problem.tasks), problem.lr, steps)
    return _grads(model)


def examples(tasks: kshot.Task) -> list[Examples]:
    """Plain tensors, one tuple a task."""
    s, q = tasks.support, tasks.query
    return [(s.x[i], s.y[i], q.x[i], q.y[i]) for i in range(len(tasks))]


def _grads(model: nn.Module) -> list[Tensor]:
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing, f"no meta-gradient for {missing}"
    return [p.grad for p in model.parameters() if p.grad is not None]


def difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The largest absolute difference; NaN anywhere gives NaN, which passes no test."""
    return float(torch.stack([(x - y).detach().abs().max() for x, y in zip(a, b, strict=True)]).max())


def gradient_rows(seed: int) -> Iterator[dict[str, Any]]:
    for name, problem in problems(seed).items():
        for learner, (make, part, rule, peers) in LEARNERS.items():
            if (rule in ADAPTIVE) != ("tanh" in name):
                continue
            for steps in STEPS:
                reference = {peer: theirs(problem, run, steps, part) for peer, run in peers.items()}
                exact = peers is UNROLLED
                rough = theirs(problem, FIRST_ORDER["autograd"], steps, part) if exact else []
                for way in WAYS:
                    mine = ours(problem, make, rule, steps, way)
                    for peer, grads in reference.items():
                        yield {
                            "problem": name,
                            "learner": learner,
                            "steps": steps,
                            "vectorize": way,
                            "peer": peer,
                            "difference": difference(mine, grads),
                            "largest": float(max(g.abs().max() for g in grads)),
                            "second_order": difference(grads, rough) if exact else None,
                        }


def rate_rows(seed: int) -> Iterator[dict[str, Any]]:
    """The meta-gradient of learned rates, one for each tensor."""
    for name, problem in problems(seed).items():
        for steps in STEPS:
            peer_model = deepcopy(problem.model)
            rates = [torch.tensor(problem.lr, dtype=torch.float64, requires_grad=True) for _ in peer_model.parameters()]
            with_higher_learned_rates(peer_model, problem.loss, examples(problem.tasks), rates, steps)
            reference = [*_grads(peer_model), *(rate.grad for rate in rates if rate.grad is not None)]
            for way in WAYS:
                rule = kshot.rules.SGD(problem.lr, learn="tensor")
                learner = kshot.MAML(deepcopy(problem.model), loss=problem.kshot_loss, rule=rule, steps=steps)
                kshot.meta_loss(learner, problem.tasks, vectorize=way).backward()
                found = learner.rule.learned["lr"]  # type: ignore[union-attr, index]
                rate_grads = [found[n.replace(".", "/")].grad for n, _ in learner.model.named_parameters()]  # type: ignore[union-attr, index]
                mine = [*_grads(learner.model), *rate_grads]
                yield {
                    "problem": name,
                    "learner": "MAML, learned rates",
                    "steps": steps,
                    "vectorize": way,
                    "peer": "higher",
                    "difference": difference(mine, reference),
                    "largest": float(max(g.abs().max() for g in reference)),
                    "second_order": None,
                }


def prediction_rows(seed: int) -> Iterator[dict[str, Any]]:
    """Predictions of kshot's metric learners against easyfsl's, on the same encoders.

    easyfsl's prototype scores are minus the distance, kshot's default is minus its square (the paper's): both are compared.
    easyfsl's matching networks do not normalize the query, so what is compared is the embeddings in full context.
    """

    def euclidean(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().sum(-1).sqrt()

    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    flat = {
        "5-way 5-shot, MLP 64-64 encoder": (_noisy(MLP(20, (64, 64))), _random(generator, 5, 5, 20)),
        "5-way 1-shot, Conv4-8 encoder": (_noisy(Conv4(width=8)), _random(generator, 1, 3, 1, 28, 28)),
    }

    def rows(
        name: str, learner: str, tasks: kshot.Task, ours: Callable[[kshot.Task], Tensor], expected: Tensor
    ) -> Iterator[dict[str, Any]]:
        for way in WAYS:
            yield {
                "problem": name,
                "learner": learner,
                "steps": None,
                "vectorize": way,
                "peer": "easyfsl",
                "difference": difference([torch.cat(list(pieces(ours, tasks, way)))], [expected]),
                "largest": float(expected.abs().max()),
                "second_order": None,
            }

    for name, (encoder, tasks) in flat.items():
        scores = _peer_scores(easyfsl_method("PrototypicalNetworks")(deepcopy(encoder)), tasks)
        for distance, expected in ((euclidean, scores), ("euclidean", -scores.square())):
            learner = kshot.ProtoNet(deepcopy(encoder), distance=distance, temperature=1.0)
            title = "ProtoNet, squared euclidean" if distance == "euclidean" else "ProtoNet, euclidean"
            yield from rows(name, title, tasks, partial(_logits, learner), expected)

        d, shots = encoder.features, len(tasks[0].support)
        matching = kshot.MatchingNet(deepcopy(encoder), full_context=True, reads=shots).double()
        peer = easyfsl_method("MatchingNetworks")(deepcopy(encoder), feature_dimension=d).double()
        both = ((matching.onward, ""), (matching.back, "_reverse"))
        peer.support_features_encoder.load_state_dict(
            {f"{n}_l0{suffix}": p for cell, suffix in both for n, p in cell.state_dict().items()}
        )
        peer.query_features_encoding_cell.load_state_dict(matching.attend.state_dict())
        yield from rows(
            name, "MatchingNet, full context", tasks, partial(_in_context, matching), _peer_context(peer, tasks)
        )

    maps = _noisy(Conv4(width=8, norm="group", halvings=2, flat=False))
    relation = _noisy(kshot.models.ConvRelation(channels=8, width=8, norm="group"))
    tasks = _random(generator, 2, 3, 1, 28, 28)
    peer = easyfsl_method("RelationNetworks")(deepcopy(maps), feature_dimension=8, relation_module=deepcopy(relation))
    learner = kshot.RelationNet(maps, relation=relation)
    yield from rows(
        "5-way 2-shot, Conv4-8 maps", "RelationNet", tasks, partial(_logits, learner), _peer_scores(peer, tasks)
    )


def _peer_scores(peer: Any, tasks: kshot.Task) -> Tensor:
    scores = []
    for support_x, support_y, query_x, _ in examples(tasks):
        peer.process_support_set(support_x, support_y)
        scores.append(peer(query_x).detach())
    return torch.stack(scores)


def _peer_context(peer: Any, tasks: kshot.Task) -> Tensor:
    """Support and query of each task, in the light of the others."""
    found = []
    for support_x, support_y, query_x, _ in examples(tasks):
        peer.process_support_set(support_x, support_y)
        query = peer.encode_query_features(peer.compute_features(query_x))
        found.append(torch.cat([peer.contextualized_support_features, query]).detach())
    return torch.stack(found)


def _in_context(learner: kshot.MatchingNet, task: kshot.Task) -> Tensor:
    support = learner.adapt(task.support).embedded
    return torch.cat([support, learner.in_context(learner.embed(task.query.x), support)])


def _logits(learner: kshot.MetaLearner, task: kshot.Task) -> Tensor:
    return learner.predict(learner.adapt(task.support), task.query.x)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """One line for each problem, learner and number of steps; a column for each peer and way."""
    lines: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        key = (row["problem"], row["learner"], str(row["steps"] or ""))
        lines.setdefault(key, {})[f"{row['peer']} {row['vectorize']}"] = row["difference"]
    header: list[str] = []
    for (problem, learner, steps), cells in lines.items():
        if list(cells) != header:
            header = list(cells)
            print(f"\n{'problem':43}{'learner':28}steps", *(f"{label:>13}" for label in header))
        print(f"{problem:43}{learner:28}{steps:>5}", *(f"{value:13.1e}" for value in cells.values()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    found = (*gradient_rows(seed), *rate_rows(seed), *prediction_rows(seed))
    rows = [row | {"passed": row["difference"] <= TOLERANCE} for row in found]
    show(rows)
    failed = [row for row in rows if not row["passed"]]
    settings = {"seed": seed, "dtype": "float64", "tolerance": TOLERANCE, "tasks": TASKS, "steps": STEPS}
    path = record("meta-gradients", settings, rows, passed=not failed, largest=max(r["difference"] for r in rows))
    print(f"\n{len(rows) - len(failed)} of {len(rows)} rows within {TOLERANCE:g}; written to {path.name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
