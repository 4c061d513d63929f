"""fit: sample → mean loss → backward → clip → step → log → validate → save."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from kshot import atomic
from kshot.audit import before_training
from kshot.evaluation import HIGHER_IS_BETTER, Evaluation, measure
from kshot.learner import MetaLearner, check_learner
from kshot.machine import computes_in_bf16
from kshot.settings import suggestion
from kshot.training import checkpoint
from kshot.training.averaging import Average
from kshot.training.compiling import Compiling
from kshot.training.distributed import RankLost, Ranks, process_group
from kshot.training.options import Training
from kshot.training.origin import check_same, origin, settings_of
from kshot.training.progress import METRICS, Writers, read_metrics
from kshot.types import InputError, Task, TaskSource, check_task, draw, identities, seeded
from kshot.vectorize import Way, choose, meta_backward

RUN = "run.json"
VALIDATION = 2**32  # from the training seed to that of the validation tasks, which are not the test tasks
Settings = TypeVar("Settings", bound=Training)


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop, and saved itself first."""


class Diverged(ArithmeticError):
    """The meta-loss or its gradient is no longer a number."""


def fit(
    learner: MetaLearner,
    tasks: TaskSource,
    *,
    validate: TaskSource | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    tensorboard: bool = False,
    **settings: Any,
) -> MetaLearner:
    """Train the learner in place, and return it.

    steps (1000), meta_batch (32): outer steps, and tasks in each.
    validate: other tasks, measured every `validate_every` steps (a tenth of the run) over `validate_episodes` (200);
        the best learner so far is kept in out/best.safetensors, and is what is returned.
    out: the run folder. Checkpoints every `save_every` steps (a twentieth of the run); the same call on the same folder goes
        on where it stopped. Without it nothing is written.
    seed (0): of the tasks, step by step, and of dropout.
    optimizer ('adam', 'adamw', 'sgd', or a function of the parameters), lr (0.001), weight_decay (0).
    schedule ('constant', 'cosine', 'linear'), warmup (0 steps), clip (None: the largest norm of the meta-gradient).
    average (None): decay of an exponential average of the weights, such as 0.995; that is what is validated and kept.
    precision: 'fp32', or 'bf16-mixed' for autocast, where the processor computes in bfloat16. vectorize: as in meta_loss.
    compile ('auto'): the steps by torch.compile; 'auto' where the steps to come pay for it, and it says so.
    device: None where the learner is, 'auto' a GPU if there is one (under torchrun each rank its own), or 'cuda:1' and so on.
    """
    training, trained = begin(learner, Training, settings)
    audit = before_training(tasks, validate, learner, training.seed)
    folder = Path(out) if out is not None else None
    with process_group() as ranks, torch.random.fork_rng(), alone_in(folder, ranks):
        run = Run(learner, trained, tasks, validate, training, folder, ranks, audit)
        run.train(progress, tensorboard)
    return learner


def alone_in(folder: Path | None, ranks: Ranks) -> AbstractContextManager[None]:
    """Two trainings in one folder would write over each other's checkpoints."""
    if folder is None or not ranks.first:
        return nullcontext()
    return atomic.alone_in(folder, f"another process is training into {folder}: wait for it, or choose another folder")


def begin(learner: MetaLearner, kind: type[Settings], settings: dict[str, Any]) -> tuple[Settings, list[nn.Parameter]]:
    """The settings, checked, and the parameters to train, on the device that the settings name."""
    unknown = [name for name in settings if name not in kind.__dataclass_fields__]
    if unknown:
        raise InputError(f"fit has no setting {unknown[0]!r}: {suggestion(unknown[0], kind.__dataclass_fields__)}")
    check_learner(learner)
    training = kind(**settings)
    if training.device is not None:
        learner.to(training.torch_device())
    trained = [p for p in learner.parameters() if p.requires_grad]
    if not trained:
        raise InputError(
            f"{type(learner).__name__} has no parameters to train: evaluate it as it is, or choose another learner"
        )
    return training, trained


class Run:
    """The state of one training: what a checkpoint holds, and the steps that move it.

    Where batches come from, what is done with one, and how the learner is measured are methods of their own: agents
    (kshot.rl) have theirs.
    """

    updates = 1  # of a step

    def __init__(
        self,
        learner: MetaLearner,
        trained: list[nn.Parameter],
        tasks: Any,
        validate: Any,
        training: Training,
        out: Path | None,
        ranks: Ranks,
        audit: Sequence[str] = (),
    ) -> None:
        self.learner, self.trained, self.tasks, self.validate = learner, trained, tasks, validate
        self.t, self.out, self.ranks, self.audit = training, out, ranks, audit
        self.device = trained[0].device
        self.share = ranks.share(training.meta_batch)
        self.optimizer = training.make_optimizer(trained)
        self.base_lr = [group["lr"] for group in self.optimizer.param_groups]
        self.step, self.best, self.seconds = 0, math.inf, 0.0
        self.losses: list[float] = []  # since the last line of the log
        self.writers: Writers | None = None
        self.best_weights: dict[str, torch.Tensor] = {}
        if not learner.seen and (out is None or not (out / checkpoint.LAST).is_file()):
            learner.meet(tasks)  # one that has been trained before keeps what it learned
        self.way: Way | None = None
        self.compiling = Compiling(training.compile, self._say, ranks.agree)
        ranks.same_start(learner)
        moving = [*trained, *(b for b in learner.buffers() if b.is_floating_point())]
        self.casts = training.precision == "bf16-mixed" and ranks.agree(computes_in_bf16(self.device))
        self.average = None if training.average is None else Average(moving, training.average)
        learner.seen = learner.seen | identities(tasks)
        learner.validated = learner.validated | identities(validate)
        self.settings = settings_of(learner, tasks, validate, training)
        if out is not None:
            self._open_folder(out)

    def train(self, show: bool, tensorboard: bool) -> None:
        try:
            self._train(show, tensorboard)
        finally:
            self.learner.progress = 1.0  # a loop of one's own may go on with it

    def _train(self, show: bool, tensorboard: bool) -> None:
        t = self.t
        self.learner.train()
        writers = Writers(self.out, t.steps, self.step, show=show, tensorboard=tensorboard, active=self.ranks.first)
        self.writers = writers
        with writers, _stop_signals() as stop:
            if t.precision == "bf16-mixed" and not self.casts:
                self._say(
                    "this processor has no instructions for bfloat16: the steps are in float32, which is quicker on it"
                )
            since, first = time.perf_counter(), self.step
            began = since - self.seconds
            for batch in self.batches():
                loss, norm, stopped = self._one_step(batch, stop)
                self.losses.append(loss)
                self.seconds = time.perf_counter() - began
                writers.advance(self.step)
                if self.step % t.every("log_every", 200) == 0 or self.step == t.steps:
                    seconds, lr = time.perf_counter() - since, self.optimizer.param_groups[0]["lr"]
                    rate = (self.step - first) * t.meta_batch / seconds
                    mean = sum(self.losses) / len(self.losses)
                    cost = {"tasks_per_s": round(rate, 1), "seconds": round(self.seconds, 1)}
                    writers.log(self.step, loss=mean, grad_norm=norm, lr=lr, **cost)
                    self.losses, since, first = [], time.perf_counter(), self.step
                paused = time.perf_counter()
                due = self.step % t.every("validate_every", 10) == 0 or self.step == t.steps
                if due and self.validate is not None and self.ranks.first:
                    with self._kept():
                        self._validate(writers)
                if self.step % t.every("save_every", 20) == 0 or self.step == t.steps or stopped:
                    self._save()
                if stopped:
                    again = f"saved in {self.out}; start it again in the same way to go on"
                    raise Interrupted(f"stopped at step {self.step} of {t.steps}: {again if self.out else 'not saved'}")
                since += time.perf_counter() - paused  # validating and saving are not training
        self._end()

    def _one_step(self, batch: Task, stop: threading.Event) -> tuple[float, float, bool]:
        """(mean loss over all ranks, norm of the meta-gradient, whether any rank was asked to stop)."""
        t = self.t
        check_task(batch, axes=1)  # each one: under vmap the learner cannot
        self.learner.check(batch)
        self.learner.features = tuple(batch.support.x.shape[2:])
        if self.way is None:
            self.way = self.ranks.agree(choose(self.learner, batch, t.vectorize))
        self._seed(seeded(t.seed, self.step, self.ranks.rank).initial_seed())
        for group, lr in zip(self.optimizer.param_groups, self.base_lr, strict=True):
            group["lr"] = lr * t.lr_factor(self.step)
        self.learner.progress = self.step / t.steps
        found = self.update(batch, self.way, stop)
        with self._autocast():
            self.learner.track(batch)
        self.ranks.average_buffers(self.learner, len(batch) / t.meta_batch)
        self.step += 1
        if self.average:
            self.average.follow(self.step)
        return found

    def _seed(self, seed: int) -> None:
        """For dropout. torch.manual_seed would also queue a call, with its traceback, for each kind of device there is not."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def update(self, batch: Task, way: Way, stop: threading.Event) -> tuple[float, float, bool]:
        """Move the learner along one meta-gradient."""
        t = self.t
        self.optimizer.zero_grad()
        with self._autocast():
            step = self.compiling.step(self.learner, batch, way, (t.steps - self.step) * self.updates, t.vectorize)
            start = time.perf_counter()
            value = meta_backward(self.learner, batch, way, t.meta_batch, step)
            self.compiling.took(start, batch)
        loss, stops = self.ranks.sum_gradients(self.trained, float(value), float(stop.is_set()))
        norm = float(nn.utils.clip_grad_norm_(self.trained, t.clip if t.clip is not None else math.inf))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(self.diagnosis(batch, loss, norm))
        self.optimizer.step()
        return loss, norm, stops > 0

    def _say(self, line: str) -> None:
        if self.ranks.first and self.writers is not None:
            self.writers.say(line)

    def batches(self) -> Iterator[Task]:
        """This rank's share of each step's tasks, the next one drawn in the background."""
        with ThreadPoolExecutor(1, thread_name_prefix="kshot-tasks") as pool:
            ahead: Future[Task] = pool.submit(self._draw, self.step)
            for step in range(self.step, self.t.steps):
                batch = ahead.result()
                if step + 1 < self.t.steps:
                    ahead = pool.submit(self._draw, step + 1)
                yield batch

    def _draw(self, step: int) -> Task:
        return draw(self.tasks, self.t.meta_batch, seeded(self.t.seed, step), self.share).to(self.device)

    def _autocast(self) -> Any:
        if not self.casts:
            return nullcontext()
        # The cache would cut higher gradients.
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    def measure(self) -> Evaluation:
        return measure(self.learner, self.validate, self.t.validate_episodes, self.t.seed + VALIDATION, curves=False)

    def _kept(self) -> AbstractContextManager[None]:
        """Within it, the weights are those that are validated and kept."""
        return self.average.in_place() if self.average else nullcontext()

    def _validate(self, writers: Writers) -> None:
        with self._autocast():
            found = self.measure()
        writers.log(self.step, **{f"val_{found.metric}": found.mean, "val_interval": found.interval})
        cost = -found.mean if found.metric in HIGHER_IS_BETTER else found.mean
        if cost < self.best:
            self.best = cost
            if self.out is not None:
                checkpoint.write(self.out / checkpoint.BEST, self.learner)
            else:
                self.best_weights = {name: t.clone() for name, t in self.learner.state_dict().items()}

    def _end(self) -> None:
        """The best learner, by validation, is the one that stays; where none was, the average, if there is one."""
        if self.average:
            torch._foreach_copy_(self.average.parameters, self.average.weights)
        if self.validate is not None:
            self.ranks.agree(None)  # all wait for the first, which validates and writes
            if self.out is not None and (self.out / checkpoint.BEST).is_file():  # not if no validation was finite
                checkpoint.fill(self.learner, checkpoint.read(self.out / checkpoint.BEST)[1], self.out)
            elif self.best_weights:
                self.learner.load_state_dict(self.best_weights)
        self.learner.eval()

    def _save(self) -> None:
        """All that going on needs: the tasks, the schedule and dropout depend on the seed and the step alone."""
        if self.out is None or not self.ranks.first:
            return
        optimizer = self.optimizer.state_dict()
        tensors: dict[str, torch.Tensor] = {}
        scalars: dict[str, Any] = {}
        for i, slots in optimizer["state"].items():
            for name, value in slots.items():
                (tensors if isinstance(value, torch.Tensor) else scalars)[f"optimizer.{i}.{name}"] = value
        if self.average:
            tensors |= {f"average.{i}": weight for i, weight in enumerate(self.average.weights)}
        state = {
            "step": self.step,
            "losses": self.losses,
            "best": self.best if math.isfinite(self.best) else None,
            "vectorize": self.way,
            "compile": self.compiling.chosen,
            "compiled": {"way": self.compiling.way, "kinds": self.compiling.kinds},
            "settings": self.settings,
            "optimizer": {"groups": optimizer["param_groups"], "scalars": scalars},
        }
        checkpoint.write(self.out / checkpoint.LAST, self.learner, state, **tensors)
        if self.average and self.validate is None:  # what `load` is to find, also while the run goes on
            with self.average.in_place():
                checkpoint.write(self.out / checkpoint.BEST, self.learner)

    def _open_folder(self, out: Path) -> None:
        """Go on from the folder's last checkpoint, or begin a run in it."""
        if not (out / checkpoint.LAST).is_file():
            if self.ranks.first:
                facts = {"ranks": self.ranks.world, "device": str(self.device), "audit": list(self.audit)}
                atomic.write(out / RUN, json.dumps(origin(self.settings, **facts), indent=2))
            return
        header, tensors = checkpoint.read(out / checkpoint.LAST)
        state = header["state"]
        if state is None:
            raise InputError(
                f"{out / checkpoint.LAST} holds a learner and no state of a training to go on from: move it away, or choose "
                "another folder"
            )
        check_same(out, state["settings"], self.settings, self.t)
        checkpoint.fill(self.learner, tensors, out)
        self.step, self.way, self.losses = state["step"], state["vectorize"], state["losses"]
        logged = [line.get("seconds", 0.0) for line in read_metrics(out / METRICS) if line["step"] <= self.step]
        self.seconds = max(logged, default=0.0)  # not in the checkpoint, whose bits do not depend on the clock
        self.compiling.chosen = state.get("compile", self.compiling.chosen)
        compiled = state.get("compiled", {"way": None, "kinds": []})  # of runs from before there was any
        self.compiling.way, self.compiling.kinds = compiled["way"], compiled["kinds"]
        self.best = math.inf if state["best"] is None else state["best"]
        slots: dict[int, dict[str, Any]] = {}
        for key, value in {**tensors, **state["optimizer"]["scalars"]}.items():
            if key.startswith("optimizer."):
                _, i, name = key.split(".", 2)
                slots.setdefault(int(i), {})[name] = value
        self.optimizer.load_state_dict({"state": slots, "param_groups": state["optimizer"]["groups"]})
        if self.average:
            torch._foreach_copy_(
                self.average.weights,
                [tensors[f"average.{i}"].to(self.device) for i in range(len(self.average.weights))],
            )
        # Files hold no layouts, and fused optimizers count on the parameter's.
        for p, own in self.optimizer.state.items():
            own |= {name: torch.empty_like(p).copy_(v) for name, v in own.items() if v.shape == p.shape}

    def diagnosis(self, batch: Task, loss: float, norm: float) -> str:
        culprit = ""
        for i in range(len(batch)):
            with self._autocast():
                value = self.learner.loss(batch[i])
            grads = torch.autograd.grad(value, self.trained, allow_unused=True)
            if not all(torch.isfinite(g).all() for g in (value, *grads) if g is not None):
                culprit = f"[{i + self.share.start}]"
                break
        batch_of = f"tasks.sample({self.t.meta_batch}, kshot.seeded({self.t.seed}, {self.step}))"
        replay = f"learner.loss({batch_of}{culprit})" if culprit else f"kshot.meta_loss(learner, {batch_of})"
        return (
            f"the meta-loss is {loss} and the norm of its gradient {norm} at step {self.step}; replay it with {replay}; "
            "a smaller inner or outer learning rate, or clip=, often helps"
        )


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """The first Ctrl-C (or SIGTERM) asks the loop to save and stop; a second one stops at once."""
    stop = threading.Event()

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[int, Any] = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    except RankLost:
        before[signal.SIGTERM] = signal.SIG_IGN  # torchrun sends it at once to those that are left: first they say why
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
