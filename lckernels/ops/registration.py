"""Registration of a public torch op: schema, kernel, fake, autograd and autocast in one call."""

from collections.abc import Callable
from functools import wraps
from operator import attrgetter, itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

_LIBRARY = torch.library.Library("lckernels", "DEF")
_FIRST_ORDER = (
    "lckernels.{}: got create_graph=True, which a second-order gradient needs; expected create_graph=False: "
    "the gradient of the backward is not supported"
)
_NO_TRANSFORMS = (
    "lckernels.{}: got a transform of torch.func (grad, vjp, jvp, ...); expected Tensor.backward() or "
    "torch.autograd.grad, which the ops support"
)


def _state(name: str) -> Callable[[], object]:
    """A private function of torch._C; without it one that returns True, so that no call `is_plain`."""
    try:
        return attrgetter(name)(torch._C)
    except AttributeError:
        return lambda *_: True


_dispatch_modes = _state("_len_torch_dispatch_stack")
_function_modes = _state("_len_torch_function_stack")
_traced = _state("_is_tracing")
_transformed = _state("_functorch.peek_interpreter_stack")
_profiled = _state("_autograd._profiler_enabled")
_autocasts = _state("_is_any_autocast_enabled")
_excluded = _state("_dispatch_tls_is_dispatch_key_excluded")


def _in_forward_mode() -> bool:
    """Whether the call is within torch.autograd.forward_ad.dual_level; True if torch does not show it."""
    return getattr(forward_ad, "_current_level", 0) >= 0


def register(
    name: str,
    schema: str,
    kernel: Callable,
    fake: Callable,
    *,
    apply: Callable | None = None,
    num_autocast: int = 0,
) -> Callable:
    """Defines lckernels::name with one kernel for all devices.

    Args:
        name: of the op.
        schema: its arguments and results, without the name.
        kernel: called on every device, below autograd and autocast.
        fake: returns results of the right shapes, dtypes and devices, without data.
        apply: the `apply` of the op's autograd.Function; None for an op without gradients.
        num_autocast: how many leading arguments autocast casts to its dtype; the others stay as they are.

    Returns:
        The op as a function, which calls the op's own code without torch's dispatcher where `is_plain`.
    """
    _LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"lckernels::{name}", fake, lib=_LIBRARY)
    op = getattr(torch.ops.lckernels, name).default
    if apply is not None:
        _register_autograd(name, op, apply)
    _register_autocast(name, op, num_autocast)
    tensors_of = _tensors_getter(op)

    def call(*args: Any) -> Any:
        if torch.compiler.is_dynamo_compiling() or not is_plain(tensors := tensors_of(args)):
            return op(*args)
        if apply is not None and torch.is_grad_enabled() and requires_grad(tensors):
            return op(*args) if below_autograd() else apply(*args)
        return kernel(*args)

    return call


def _tensors_getter(op: torch._ops.OpOverload) -> Callable[[tuple], tuple]:
    """Returns, of an op's arguments, those that are tensors, lists of tensors or None."""
    places = [i for i, x in enumerate(op._schema.arguments) if "Tensor" in str(x.type)]
    return itemgetter(*places)


def first_order(name: str) -> Callable[[Callable], Callable]:
    """Decorates the backward of an op: it raises if autograd records it for a second-order gradient.

    Autograd records a backward if the caller passes create_graph=True. A backward within a compiled graph or
    within a reentrant checkpoint does not receive that argument.
    """

    def decorate(backward: Callable) -> Callable:
        @wraps(backward)
        def checked(ctx: Any, *grads: Tensor | None) -> tuple:
            if torch.is_grad_enabled():
                raise RuntimeError(_FIRST_ORDER.format(name))
            return backward(ctx, *grads)

        return checked

    return decorate


def is_plain(tensors: tuple[Tensor | list[Tensor] | None, ...]) -> bool:
    """Whether the call of an op with these tensors needs nothing of torch's dispatcher but autograd.

    That is: ordinary tensors on the CPU, and no mode, transform, trace, autocast or profiler.
    """
    return not is_observed() and _are_plain(tensors)


def is_observed() -> bool:
    """Whether a mode, a transform, a trace, autocast or the profiler must receive the calls of ops."""
    return is_intercepted() or bool(_profiled())


def is_intercepted() -> bool:
    """The same without the profiler: whether the op that computes a result must be the usual one."""
    return bool(
        _dispatch_modes()
        or _function_modes()
        or _traced()
        or _transformed()
        or getattr(forward_ad, "_current_level", 0) >= 0  # as in _in_forward_mode, without a call
        or _autocasts()
    )


def _are_plain(tensors: tuple | list) -> bool:
    for x in tensors:
        if x is None:
            continue
        if type(x) is Tensor or type(x) is Parameter:
            if not x.is_cpu:
                return False
        elif not (isinstance(x, list) and _are_plain(x)):
            return False
    return True


def below_autograd() -> bool:
    """Whether the calls of this thread pass below autograd, as within torch._C._AutoDispatchBelowAutograd."""
    return bool(_excluded(torch._C.DispatchKey.AutogradFunctionality))


def requires_grad(tensors: tuple | list) -> bool:
    """Whether one of the tensors requires a gradient."""
    for x in tensors:
        if x is not None and (requires_grad(x) if isinstance(x, list) else x.requires_grad):
            return True
    return False


def _register_autograd(name: str, op: Callable, apply: Callable) -> None:
    """An autograd.Function under the Autograd key: a tenth of the host time of torch.library's wrapper."""

    tensors_of = _tensors_getter(op)

    def with_autograd(*args: Any) -> Any:
        # In forward mode the Function raises, since it has no jvp; below autograd a tangent would be lost.
        if _in_forward_mode() or (torch.is_grad_enabled() and requires_grad(tensors_of(args))):
            if torch._C._are_functorch_transforms_active():
                raise NotImplementedError(_NO_TRANSFORMS.format(name))
            return apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    _LIBRARY.impl(name, with_autograd, "Autograd")


def _register_autocast(name: str, op: Callable, num_autocast: int) -> None:
    """Casts the first num_autocast arguments except fp64; autocast is disabled within the op."""
    for device in ("cpu", "cuda"):
        key = getattr(torch._C.DispatchKey, f"Autocast{device.upper()}")
        keys = torch._C.DispatchKeySet(key)

        def cast(*args: Any, device: str = device, keys: Any = keys) -> Any:
            dtype = torch.get_autocast_dtype(device)
            inputs = (
                x if x is None or x.dtype == torch.float64 else x.to(dtype) for x in args[:num_autocast]
            )
            with torch._C._ExcludeDispatchKeyGuard(keys):
                return op(*inputs, *args[num_autocast:])

        _LIBRARY.impl(name, cast, key.name)
