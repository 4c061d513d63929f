"""One plain recommendation: the first of these rules that has something to say says it."""

from __future__ import annotations

import math

from kshot.doctor.findings import Diagnosis, Mode

GROWS = 10.0  # an inner gradient that grows so much runs away
ALIKE = 0.95  # a meta-gradient of at least this cosine, on every task, is as good as the exact one
SAME = 0.999  # what is said to be exact, and is not on these tasks, is not recommended as such
LENGTHS = (0.5, 2.0)  # within which it is as long; Adam as outer optimizer does not see a common factor at all
CHEAPER = 0.8  # of the time: less is not worth a bias
SCARCE = 0.01  # of the free memory, for one task: a meta-batch takes many times that
SMALLER = 0.5  # of the memory: where it is scarce, so much is worth …
SLOWER = 2.0  # … this much time
CAVEAT = " This holds at the initial weights: ask again of the trained run."


def recommend(d: Diagnosis) -> str:
    for rule in (_inner_loop, _not_finite, _dead, _cut, _mode, _meta_batch):
        said = rule(d)
        if said:
            return said
    return "Nothing is learned in advance, so there is no meta-gradient to improve: the inner loop is all there is."


def _inner_loop(d: Diagnosis) -> str | None:
    if not d.inner:
        return None
    first, last = d.inner[0], d.inner[-1]
    broken = next((s for s in d.inner if not math.isfinite(s.support_loss)), None)
    if broken:
        return (
            f"The inner loop diverges: after {_steps(broken.step)} the support's loss is not a finite number. Lower the inner "
            "learning rate, or clip inner gradients."
        )
    worst = max(d.inner, key=lambda s: s.gradient)
    if last.support_loss > first.support_loss and worst.gradient > GROWS * first.gradient:
        return (
            f"The inner loop diverges: the gradient norm grows ×{worst.gradient / first.gradient:.0f} by step {worst.step}, and "
            f"the support's loss rises from {first.support_loss:.3g} to {last.support_loss:.3g}. Lower the inner learning rate."
        )
    if last.support_loss > first.support_loss + 1e-3 * abs(first.support_loss):
        return (
            f"The inner loop does not learn its support: the loss rises from {first.support_loss:.3g} to {last.support_loss:.3g} "
            f"in {_steps(last.step)}. Lower the inner learning rate first."
        )
    return None


def _not_finite(d: Diagnosis) -> str | None:
    names = [s.name for s in d.silent if s.reason == "not finite"]
    if names:
        return f"The meta-gradient of {_names(names)} is not finite. Lower the inner learning rate or the number of steps first."
    exact = [m for m in d.modes if m.exact and m.why is None]
    if exact and all(m.cosine is None or math.isnan(m.cosine.mean) for m in exact):
        return (
            f"Keep hypergradient={d.hypergradient!r}: the exact meta-gradient is not finite, and nothing can be judged by it. "
            "Look for a function whose second derivative is infinite, such as a root or a power below 2 where its argument is 0."
        )
    return None


def _dead(d: Diagnosis) -> str | None:
    names = [s for s in d.silent if s.reason == "dead"]
    if not names:
        return None
    return f"Mend {_names([s.name for s in names])} first: {names[0].why}. What gets no gradient is never trained."


def _cut(d: Diagnosis) -> str | None:
    names = [s.name for s in d.silent if s.reason == "cut"]
    if not names:
        return None
    best = _exact(d)
    return f"{_take(d, best)}: {d.hypergradient} gives {_names(names)} no gradient, the exact meta-gradient does."


def _mode(d: Diagnosis) -> str | None:
    """The cheapest that points where the exact one does; else an exact one."""
    if not d.modes:
        return None
    exact, unrolled = _exact(d), d.modes[0]
    cheap = min((m for m in d.modes if not m.exact and _alike(m)), key=_seconds, default=None)
    if cheap and cheap.cosine and cheap.ratio and _seconds(cheap) <= CHEAPER * _seconds(exact):
        return (
            f"{_take(d, cheap)}: its meta-gradient has cosine {cheap.cosine.mean:.3f} with the exact one (lowest of "
            f"{d.tasks} tasks {cheap.cosine.low:.3f}), at {_costs(cheap, exact)}.{'' if d.trained else CAVEAT}"
        )
    nearest = max((m.cosine.low for m in d.modes if not m.exact and m.cosine), default=1.0)
    bias = "a biased one is hardly cheaper"
    if nearest < ALIKE:
        bias = f"the best of the biased ones falls to a cosine of {nearest:.3f}"
    if exact is unrolled:
        return f"{_take(d, exact)}: it is exact, and {bias}."
    if unrolled.why:
        return f"{_take(d, exact)}: it is exact, and of unrolled {unrolled.why}."
    return f"{_take(d, exact)}: the same gradient as unrolled, at {_costs(exact, unrolled)}; {bias}."


def _meta_batch(d: Diagnosis) -> str | None:
    if d.agreement is None:
        return None
    noise = d.agreement.noise_scale
    if noise > 10 * d.tasks:
        return (
            f"The meta-gradients of {d.tasks} tasks have no direction in common (mean cosine {d.agreement.cosine:.2f}): near an "
            "optimum that is as it should be, else average over many tasks, and ask again with more tasks."
        )
    return (
        f"A meta-batch of about {max(1, round(noise))} tasks: there the mean meta-gradient is as much signal as noise "
        f"(mean cosine between tasks {d.agreement.cosine:.2f}); many more tasks a step buy little."
    )


def _exact(d: Diagnosis) -> Mode:
    """The first that could be taken (unrolled, where it fits); where memory is scarce one with half of it."""
    able = [m for m in d.modes if m.exact and m.why is None and m.cosine and m.cosine.low > SAME]
    first = able[0]
    small = [m for m in able if _bytes(m) <= SMALLER * _bytes(first) and _seconds(m) <= SLOWER * _seconds(first)]
    return min(small, key=_bytes, default=first) if _bytes(first) > SCARCE * d.free else first


def _alike(m: Mode) -> bool:
    if m.cosine is None or m.ratio is None:
        return False
    return m.cosine.low >= ALIKE and LENGTHS[0] <= m.ratio.low and m.ratio.high <= LENGTHS[1]


def _seconds(m: Mode) -> float:
    return math.inf if m.seconds is None else m.seconds


def _bytes(m: Mode) -> float:
    return math.inf if m.memory is None else m.memory


def _take(d: Diagnosis, m: Mode) -> str:
    return f"{'Keep' if m.hypergradient == d.hypergradient else 'Take'} hypergradient={m.hypergradient!r}"


def _costs(m: Mode, of: Mode) -> str:
    return f"{_seconds(m) / _seconds(of):.2f} of the time and {_bytes(m) / _bytes(of):.2f} of the memory of {of.hypergradient}"


def _steps(n: int) -> str:
    return "1 step" if n == 1 else f"{n} steps"


def _names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
