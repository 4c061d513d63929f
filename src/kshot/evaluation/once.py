"""Embedding each example of an evaluation once, in however many tasks it is."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot.evaluation.protocol import TASKS_AT_ONCE, device_of, first_task, stream
from kshot.functional import call, uses_batch_statistics
from kshot.learner import MetaLearner
from kshot.learners.embedding import EmbeddingLearner
from kshot.tasks.episodes import Episodes
from kshot.types import TaskSource, draw

MOST_EMBEDDED = 1 << 30  # bytes of embedded examples that are kept


def embedding_once(learner: MetaLearner, tasks: TaskSource, seed: int) -> tuple[MetaLearner, TaskSource]:
    """A learner and tasks with the same outputs, for which each example is embedded once, in however many tasks it is.

    Not where one task, tried both ways, says otherwise: an encoder may compare the examples of a batch.
    """
    if not isinstance(learner, EmbeddingLearner) or learner.encoder is None:
        return learner, tasks
    if type(tasks) is not Episodes or tasks.warp or tasks.warp_classes:  # others may make their examples anew
        return learner, tasks
    encoder, by, device = learner.encoder, learner.statistics, device_of(learner)
    if uses_batch_statistics(encoder, by):
        return learner, tasks

    def encoded(x: Tensor) -> Tensor:
        return call(encoder, {}, x.to(device), by)

    try:
        one = first_task(learner, tasks, seed)
        wanted = learner.predict(learner.adapt(one.support), one.query.x)
        like = encoded(one.support.x)
        if len(tasks.storage) * like[0].numel() * like.element_size() > MOST_EMBEDDED:
            return learner, tasks
        once = tasks.embedded(encoded)
        twin = learner.of_embedded()
        draw(once, TASKS_AT_ONCE, stream(seed, 0))  # embedded in other company than in a task alone
        same = first_task(twin, once, seed)
        found = twin.predict(twin.adapt(same.support), same.query.x).to(wanted)
    except Exception:  # a learner may use its encoder as it likes, and the plain way says what is wrong, if anything
        return learner, tasks
    agree = torch.allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    return (twin, once) if agree else (learner, tasks)
