"""Many processes, one batch of tasks: each rank takes its share and torch.distributed sums the gradients.

Start them with torchrun. The tasks of a step do not depend on the number of ranks, so neither does the training,
but for rounding. A rank that dies breaks its connections: the others fail at the next sum, and torchrun ends the job.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous

from kshot.types import InputError


class RankLost(RuntimeError):
    """Another process of the job is gone."""


class Ranks:
    """This process's place among the ranks of a job; alone without torchrun."""

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This rank's part of n tasks; parts differ by one at most."""
        if n < self.world:
            raise InputError(f"meta_batch={n} tasks cannot be shared by {self.world} ranks: each needs at least one")
        return slice(n * self.rank // self.world, n * (self.rank + 1) // self.world)

    def agree(self, value: Any) -> Any:
        """Rank 0's value, for all."""
        if self.world == 1:
            return value
        box = [value]
        with _naming_the_lost():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def same_start(self, module: nn.Module) -> None:
        """Rank 0's parameters and buffers, for all."""
        if self.world > 1:
            with _naming_the_lost():
                for tensor in module.state_dict().values():
                    dist.broadcast(tensor, src=0)

    def average_buffers(self, module: nn.Module, weight: float) -> None:
        """The mean over the ranks of each buffer, by the weight of their shares: each has tracked its own tasks."""
        buffers = [b for b in module.buffers() if b.is_floating_point()]
        if self.world > 1 and buffers:
            with _naming_the_lost():
                for buffer in buffers:
                    buffer *= weight
                    dist.all_reduce(buffer)

    def sum_gradients(self, parameters: Iterable[nn.Parameter], *scalars: float) -> list[float]:
        """Sum every gradient, and the scalars, over the ranks in one message; returns the scalars' sums."""
        if self.world == 1:
            return list(scalars)
        grads = [p.grad for p in parameters if p.grad is not None]
        device = grads[0].device if grads else torch.device("cpu")
        flat = torch.cat(
            [g.reshape(-1).double() for g in grads] + [torch.tensor(scalars, dtype=torch.float64, device=device)]
        )
        with _naming_the_lost():
            dist.all_reduce(flat)
        start = 0
        for g in grads:
            g.copy_(flat[start : start + g.numel()].view_as(g))
            start += g.numel()
        return [float(v) for v in flat[start:]]


@contextmanager
def process_group() -> Iterator[Ranks]:
    """Join the job that torchrun started, if it did."""
    joining = "TORCHELASTIC_RUN_ID" in os.environ and dist.is_available() and not dist.is_initialized()
    if joining:
        with _naming_the_lost():
            store, rank, world = next(rendezvous("env://"))
            # torchrun may keep its store over a restart: without a prefix a rank can read the address of one that is dead.
            attempt = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)  # type: ignore[attr-defined]
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, store=attempt, rank=rank, world_size=world)
    try:
        yield Ranks()
        if joining:
            with _naming_the_lost():
                dist.barrier()  # the ranks leave together: torch may abort in one whose peer has gone before it
    finally:
        if joining:
            dist.destroy_process_group()


@contextmanager
def _naming_the_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what torch.distributed raises when a connection breaks
        raise RankLost(
            "another rank of this job is gone, or cannot be reached: look for its error among the messages around this one, "
            "and start the same command again to go on from the last checkpoint"
        ) from error
