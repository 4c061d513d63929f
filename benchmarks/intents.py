"""Few-shot intents: ProtoNet on hashed n-grams against the centroid of character TF-IDF, on the very same episodes.

    KSHOT_DATA=… python benchmarks/intents.py [--runs runs/bench]

For each dataset and each of its five class splits the recipe intents-5w1s-protonet is trained once (a finished run folder is
gone on with), and both are measured on 300 5-way episodes of 1 shot and 300 of 5 shots: 1,500 each over the five splits.
TF-IDF gets all that it could want: its document frequencies are counted on all sentences, those of the test classes too.
"""

from __future__ import annotations

import argparse
import math
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from evidence import record
from glyph_learners import training_seconds
from torch import Tensor

import kshot
from kshot import recipes
from kshot.evaluation import score
from kshot.intervals import mean_interval
from kshot.tasks import Episodes, Intents
from kshot.tasks.intents import sentences
from kshot.types import seeded

RECIPE = "intents-5w1s-protonet"
DATASETS, FOLDS, SHOTS = ("BANKING77", "HWU64", "CLINC150"), (1, 2, 3, 4, 5), (1, 5)
EPISODES, TOGETHER = 300, 20
NGRAMS = range(2, 6)


def tfidf(texts: list[str]) -> Tensor:
    """M texts -> their inner products [M, M], each text of length one: n-grams of 2 to 5 characters within words."""
    bags = []
    for text in texts:
        words = [f" {word} " for word in unicodedata.normalize("NFKC", text).lower().split()]
        bags.append(Counter(w[i : i + n] for w in words for n in NGRAMS for i in range(max(1, len(w) - n + 1))))
    documents = Counter(gram for bag in bags for gram in bag)
    number = {gram: i for i, gram in enumerate(documents)}
    rows = [row for row, bag in enumerate(bags) for _ in bag]
    columns = [number[gram] for bag in bags for gram in bag]
    idf = {gram: math.log((1 + len(texts)) / (1 + df)) + 1 for gram, df in documents.items()}
    values = torch.tensor([count * idf[gram] for bag in bags for gram, count in bag.items()])
    length = torch.zeros(len(texts)).index_add_(0, torch.tensor(rows), values.square()).sqrt()
    values = values / length[rows]
    matrix = torch.sparse_coo_tensor(torch.tensor([rows, columns]), values, (len(texts), len(documents))).coalesce()
    parts = [torch.sparse.mm(matrix, part.to_dense().T) for part in _cut(matrix, 500)]
    return torch.cat(parts, 1)


def _cut(matrix: Tensor, size: int) -> list[Tensor]:
    return [matrix.index_select(0, torch.arange(i, min(i + size, len(matrix)))) for i in range(0, len(matrix), size)]


def centroid_scores(products: Tensor, support: Tensor, query: Tensor, ways: int) -> Tensor:
    """Cosine [Q, N] between queries and class means, from inner products alone; the support is ordered by class."""
    members = support.reshape(ways, -1)  # [N, k]
    means = products[query][:, members].mean(-1)  # [Q, N]
    lengths = torch.stack([products[m][:, m].mean() for m in members]).sqrt()
    return means / lengths


def accuracies(
    learner: kshot.MetaLearner, episodes: Episodes, products: Tensor, place: Tensor
) -> tuple[Tensor, Tensor]:
    """Of each episode, ours and TF-IDF's; place: where a row of the data is in `products`."""
    ours, theirs = [], []
    for i in range(EPISODES // TOGETHER):
        plan = episodes.plan(TOGETHER, seeded(0, i))
        tasks = episodes.read(plan)
        for j in range(TOGETHER):
            logits = learner(tasks[j].support, tasks[j].query.x)
            scores = centroid_scores(products, place[plan.support[j]], place[plan.query[j]], plan.ways)
            query = tasks[j : j + 1].query
            ours.append(score(logits[None], query))
            theirs.append(score(scores[None], query))
    return torch.cat(ours), torch.cat(theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/bench"))
    runs = parser.parse_args().runs
    rows: list[dict[str, Any]] = []
    for dataset in DATASETS:
        everything = sentences(dataset)
        products = tfidf(everything)
        found: dict[int, list[tuple[Tensor, Tensor]]] = {shots: [] for shots in SHOTS}
        seconds = 0.0
        for fold in FOLDS:
            recipe = recipes.read(RECIPE, [f"tasks.dataset={dataset}", f"tasks.fold={fold}"])
            out = runs / f"{RECIPE}-{dataset}-{fold}"
            kshot.fit(
                recipe.learner(),
                recipe.tasks("train"),
                validate=recipe.tasks("val"),
                out=out,
                progress=False,
                **recipe.training,
            )
            learner = kshot.load(out)
            seconds += training_seconds(out, recipe.training["meta_batch"])
            for shots in SHOTS:
                with torch.no_grad():
                    test = Intents("test", shots=shots, dataset=dataset, fold=fold)
                    found[shots].append(accuracies(learner, test, products, torch.arange(len(everything))))
        for shots, folds in found.items():
            ours, theirs = (torch.cat(column).tolist() for column in zip(*folds, strict=True))
            gain, gain_interval = mean_interval([a - b for a, b in zip(ours, theirs, strict=True)])
            (mean, interval), (other, other_interval) = mean_interval(ours), mean_interval(theirs)
            print(
                f"{dataset:10} {shots} shots: ProtoNet {100 * mean:.2f} ± {100 * interval:.2f}, TF-IDF {100 * other:.2f} ± "
                f"{100 * other_interval:.2f}, difference {100 * gain:.2f} ± {100 * gain_interval:.2f}",
                flush=True,
            )
            rows.append(
                {
                    "dataset": dataset,
                    "shots": shots,
                    "accuracy": mean,
                    "interval": interval,
                    "tf-idf": other,
                    "tf-idf, interval": other_interval,
                    "better by": gain,
                    "better by, interval": gain_interval,
                    "episodes": len(ours),
                    "training seconds a split": round(seconds / len(FOLDS), 1),
                }
            )
    passed = all(row["better by"] > row["better by, interval"] for row in rows)
    settings = {"recipe": recipes.read(RECIPE).settings, "folds": FOLDS, "episodes a fold": EPISODES, "seed": 0}
    print("written to", record("intents", settings, rows, passed=passed))
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
