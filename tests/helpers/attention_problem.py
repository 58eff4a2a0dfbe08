"""A problem of windowed_attention: its inputs and the gradients of its results."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from lckernels import Layout, Score
from lckernels.options import AttentionOptions


@dataclass(frozen=True)
class Problem:
    q: Tensor
    k: Tensor
    v: Tensor
    options: AttentionOptions
    dout: Tensor | None
    dlse: Tensor | None

    def __str__(self) -> str:
        tensors = ((name, getattr(self, name)) for name in ("q", "k", "v", "dout", "dlse"))
        lines = [f"{name}: {_text(x)}" for name, x in tensors]
        for name, value in self.options._asdict().items():
            if isinstance(value, Layout | Score):
                lines += [f"{name}.{f.name}: {_text(getattr(value, f.name))}" for f in fields(value)]
            else:
                lines.append(f"{name}: {_text(value)}")
        return "\n".join("  " + line for line in lines)


def with_tensors(problem: Problem, change: Callable[[Tensor], Tensor]) -> Problem:
    """The problem with `change` applied to every tensor: inputs, gradients, layout, score and seed."""

    def changed(group: object, names: list[str]) -> dict[str, Tensor]:
        found = ((name, getattr(group, name)) for name in names)
        return {name: change(x) for name, x in found if isinstance(x, Tensor)}

    options = problem.options
    layout, score = (
        replace(group, **changed(group, [f.name for f in fields(group)]))
        for group in (options.layout, options.score)
    )
    seed = None if options.seed is None else change(options.seed)
    options = options._replace(layout=layout, score=score, seed=seed)
    tensors = changed(problem, ["q", "k", "v", "dout", "dlse"])
    return replace(problem, options=options, **tensors)


def _text(x: object) -> str:
    if not isinstance(x, Tensor):
        return repr(x)
    values = f" {x.tolist()}" if x.dim() < 2 and x.numel() < 12 else ""
    bad = (~x.isfinite()).nonzero()[:4].tolist() if x.is_floating_point() else []
    values += f" first inf or NaN at {bad}" if bad else ""
    return f"{x.dtype} {tuple(x.shape)} strides {x.stride()} from {x.storage_offset()}{values}"


def moved(group: Layout | Score, device: str, dtype: torch.dtype | None = None) -> Layout | Score:
    """The group with its tensors on the device; those of floating point have the dtype, if one is given."""
    tensors = {
        field.name: value.to(device, dtype if value.is_floating_point() else None)
        for field in fields(group)
        if isinstance(value := getattr(group, field.name), Tensor)
    }
    return replace(group, **tensors)


def problem_of(
    batch=1, seqlen_q=21, seqlen_k=21, num_heads=2, num_kv_heads=1, head_dim=8, head_dim_v=8,
    dtype=torch.float32, window_size=(-1, -1), layout=None, score=None, dropout_p=0.0,
) -> Problem:  # fmt: skip
    """A random problem of these sizes and options."""
    shapes = (
        (batch, seqlen_q, num_heads, head_dim),
        (batch, seqlen_k, num_kv_heads, head_dim),
        (batch, seqlen_k, num_kv_heads, head_dim_v),
        (batch, seqlen_q, num_heads, head_dim_v),
    )
    q, k, v, dout = (torch.randn(shape).to(dtype) for shape in shapes)
    dlse = torch.randn(batch, num_heads, seqlen_q).to(torch.promote_types(dtype, torch.float32))
    seed = torch.tensor([77]) if dropout_p else None
    options = AttentionOptions(
        window_size, head_dim**-0.5, layout or Layout(), score or Score(), dropout_p, seed
    )
    return Problem(q, k, v, options, dout, dlse)
