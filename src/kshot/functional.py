"""A module run on given parameters: the only place that puts tensors into a module.

The hazards of running somebody's unmodified module live here and nowhere else:

- One tensor under two names (tied weights), or one submodule under two names. torch.func.functional_call's default
  `tie_weights=True` permanently overwrites parameters in the second case, and `tie_weights=False` leaves the second name of a
  tied weight untouched. So a parameter here has ONE name, the first, and `call` writes it into every slot that holds it.
- Batch norm with running statistics changes its buffers in every forward pass, which is neither pure nor allowed under vmap.
  The policy is explicit: 'batch' statistics (transductive) or 'running' statistics, frozen.
- Any other buffer that a forward pass writes to: the module works on a copy.
- Fused kernels whose second derivative is missing (attention) or, under vmap, silently wrong (batch norm).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from kshot.types import Batch, InputError, first_line, inside_vmap, is_concrete

Params = dict[str, Tensor]
BatchNormPolicy = Literal["batch", "running", "tracked"] | None


def parameters(model: nn.Module) -> Params:
    """Every parameter once, under its first name."""
    return dict(model.named_parameters())


def select(names: Iterable[str], patterns: str | Iterable[str]) -> list[str]:
    """The names that match any of the patterns: '*' all, 'head.*' a submodule, '!body.*' all but what matches."""
    names, patterns = list(names), [patterns] if isinstance(patterns, str) else list(patterns)
    wanted = [p for p in patterns if not p.startswith("!")] or ["*"]
    barred = [p[1:] for p in patterns if p.startswith("!")]
    chosen = [
        name
        for name in names
        if any(fnmatchcase(name, p) for p in wanted) and not any(fnmatchcase(name, p) for p in barred)
    ]
    if not chosen:
        raise InputError(
            f"adapted={patterns} matches none of the model's trainable parameters ({', '.join(names) or 'it has none'}): "
            "give patterns such as '*', 'head.*' or '!body.*'"
        )
    return chosen


def call(model: nn.Module, params: Mapping[str, Tensor], x: Tensor, batch_norm: BatchNormPolicy = None) -> Tensor:
    """model(x) with `params` in place of its own; names that are left out keep the model's own parameters."""
    outputs: Tensor = run(model, params, (x,), batch_norm=batch_norm)
    return outputs


def run(
    model: nn.Module,
    params: Mapping[str, Tensor],
    inputs: tuple[Any, ...],
    named: Mapping[str, Any] | None = None,
    *,
    batch_norm: BatchNormPolicy = None,
    method: str | None = None,
) -> Any:
    """model(*inputs, **named), or one of its methods, with `params` (and buffers, by name) in place of its own."""
    target = model if method is None else getattr(model, method)
    try:
        with standing_in(model, params, batch_norm), _no_fused_encoder():
            return target(*inputs, **(named or {}))
    except RuntimeError as error:  # torch's complaint about shapes and dtypes; under vmap it may be one about vmap
        x = next((value for value in inputs if isinstance(value, Tensor)), torch.empty(0))
        known = isinstance(error, NotImplementedError | torch.OutOfMemoryError)
        if known or not x.ndim or not x.numel() or not is_concrete(Batch(x, x)):
            raise
        raise InputError(_why_refused(model, x, error)) from error


def _why_refused(model: nn.Module, x: Tensor, error: RuntimeError) -> str:
    own = next((p.dtype for p in model.parameters()), x.dtype)
    reason = first_line(error)
    if x.dtype != own and "type" in reason:
        return f"the examples are {x.dtype} and the model's parameters are {own} ({reason}): use x.to({own})"
    return (
        f"the model {type(model).__name__} cannot take {len(x)} examples of shape {tuple(x.shape[1:])} ({reason}): give "
        "them the shape that it expects, or build the model for these"
    )


def batch_statistics(model: nn.Module, params: Mapping[str, Tensor], x: Tensor) -> Params:
    """What batch norms that keep running statistics see when the model runs on x: their buffers, by name."""
    norms = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}
    before = [(m.training, m.momentum) for m in norms.values()]
    try:
        for m in norms.values():
            m.training, m.momentum = True, 1.0  # of this batch alone
        with standing_in(model, params) as buffers, _no_fused_encoder():
            model(x)
    finally:
        for m, (training, momentum) in zip(norms.values(), before, strict=True):
            m.training, m.momentum = training, momentum
    return {f"{name}.{slot}": buffers[f"{name}.{slot}"] for name in norms for slot in ("running_mean", "running_var")}


def uses_batch_statistics(model: nn.Module, batch_norm: BatchNormPolicy) -> bool:
    """Whether one example's output depends on the others in its batch."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    return any(batch_norm == "batch" or not m.track_running_stats for m in norms)


def check_batch_norm(model: nn.Module, batch_norm: BatchNormPolicy, *, tracks: bool = False) -> None:
    """Raise InputError unless it is a module, and where running statistics need a policy and none was given.

    tracks: whether this learner can gather them while it is trained.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"a learner needs an nn.Module, found the class {model.__name__}: build it first, {model.__name__}(…)"
            if isinstance(model, type)
            else f"a learner needs an nn.Module, found a {type(model).__name__}: wrap it in one"
        )
    policies = ("batch", "running", *(("tracked",) if tracks else ()))
    if batch_norm not in (None, *policies):
        raise InputError(
            f"batch_norm={batch_norm!r} is no policy of this learner: choose {' or '.join(map(repr, policies))}"
        )
    tracked = [name for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if batch_norm == "tracked" and not tracked:
        raise InputError(
            "batch_norm='tracked' and no batch norm of the model keeps running statistics: build it with nn.BatchNorm2d(…), or "
            "Conv4 with norm='running'"
        )
    if tracked and batch_norm is None:
        raise InputError(
            f"the model's batch norm {tracked[0]!r} keeps running statistics: choose batch_norm='batch' (statistics of the "
            "batch at hand, as most papers do; predictions are then transductive), batch_norm='running' (the stored "
            "statistics, frozen; for a pretrained model)"
            + (", batch_norm='tracked' (of the batch in training, and their average afterwards)" if tracks else "")
            + ", or use group or layer norm"
        )


@contextmanager
def standing_in(model: nn.Module, params: Mapping[str, Tensor], batch_norm: BatchNormPolicy = None) -> Iterator[Params]:
    """`params` in every slot that holds their namesakes, copies in those of buffers, and batch norms by the policy; yields
    the copies by name. One walk over the modules: torch.func.functional_call takes several, which small models feel."""
    first: dict[Tensor, str] = {}  # tied slots share the name of the first
    own: list[tuple[dict[str, Any], str, Any]] = []
    norms: list[tuple[_BatchNorm, bool]] = []
    copies = {}
    try:
        for prefix, module in model.named_modules():  # visits a module that is registered twice once
            dot = f"{prefix}." if prefix else ""
            for slot, parameter in module._parameters.items():
                if parameter is not None and (name := first.setdefault(parameter, dot + slot)) in params:
                    own.append((module._parameters, slot, parameter))
                    module._parameters[slot] = params[name]
            for slot, buffer in module._buffers.items():
                if buffer is not None:
                    own.append((module._buffers, slot, buffer))
                    copies[dot + slot] = module._buffers[slot] = params.get(dot + slot, buffer).clone()
            if batch_norm and isinstance(module, _BatchNorm) and module.track_running_stats:
                norms.append((module, module.training))
                module.training, module.track_running_stats = batch_norm == "batch", batch_norm == "running"
        yield copies
    finally:
        for slots, slot, tensor in own:
            slots[slot] = tensor
        for norm, training in norms:
            norm.training, norm.track_running_stats = training, True


@contextmanager
def _no_fused_encoder() -> Iterator[None]:
    """nn.TransformerEncoderLayer has a kernel for eval mode that neither vmap nor torch.func.grad can pass."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Inside, what is computed can be differentiated twice, also under vmap."""
    with sdpa_kernel(SDPBackend.MATH), _AffineApart() if inside_vmap() else nullcontext():
        yield


class _AffineApart(TorchFunctionMode):
    """Normalize without weight and bias, then apply these.

    Under vmap, the second derivative of the fused kernels with a weight is wrong, without a word: on torch 2.13 the gradient
    with respect to what comes before them is off by up to its own size. Without a weight it is right (both are in
    tests/test_functional.py, with the other functions of torch.nn.functional).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _APART.get(func, func)(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *rest: Any,
    **named: Any,
) -> Tensor:
    return _affine(F.batch_norm(x, running_mean, running_var, None, None, *rest, **named), weight, bias, x.ndim - 2)


def _instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *rest: Any,
    **named: Any,
) -> Tensor:
    return _affine(F.instance_norm(x, running_mean, running_var, None, None, *rest, **named), weight, bias, x.ndim - 2)


def _layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    return _affine(F.layer_norm(x, shape, None, None, eps), weight, bias, 0)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, places: int) -> Tensor:
    """Weight and bias one a channel, with so many axes of places after it."""
    if weight is not None:
        x = x * weight.reshape(*weight.shape, *[1] * places)
    return x if bias is None else x + bias.reshape(*bias.shape, *[1] * places)


_APART = {F.batch_norm: _batch_norm, F.instance_norm: _instance_norm, F.layer_norm: _layer_norm}
