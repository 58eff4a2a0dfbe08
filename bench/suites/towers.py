"""Qwen2.5-VL's vision tower on lckernels.patch against transformers' loop over windows with SDPA."""

from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from bench.cases.towers import ATTENTION, MODEL, TRAINING, TowerCase
from bench.harness.comparison import Budget, Subject, chosen_backend
from bench.harness.report.tower_goals import SUITE
from bench.harness.rows import Row
from bench.suites.patched import Call, patched_rows, results_of


def tower_rows(case: TowerCase, budget: Budget, log: Callable[[str], None] = print) -> list[Row]:
    """The rows of `patched_rows`."""
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

    model, inputs = case.build()
    q = torch.empty(1, case.patches, case.heads, case.dim // case.heads)
    subject = Subject(
        suite=SUITE, op=case.op, direction=case.direction, shape=case.shape(), dtype="float32",
        work=case.flops(), unit="GFLOP/s", backend=chosen_backend("windowed_attention", q, q, q),
    )  # fmt: skip
    make_call = partial(_call, case, inputs)
    if case.op != ATTENTION:
        return patched_rows(subject, case.label, model, make_call, budget, log)
    with mock.patch.object(modeling_qwen2_5_vl, "apply_rotary_pos_emb_vision", _without_rotation):
        return patched_rows(subject, case.label, model, make_call, budget, log)


def _without_rotation(q: Tensor, k: Tensor, *angles: Tensor) -> tuple[Tensor, Tensor]:
    return q, k


class _Given(nn.Module):
    """A layer whose result is given."""

    def __init__(self, result: Tensor) -> None:
        super().__init__()
        self.result = result

    def forward(self, *inputs: Any) -> Tensor:
        """The result."""
        return self.result


def _call(case: TowerCase, inputs: dict[str, Tensor], tower: nn.Module) -> Call:
    """() -> the states; in training the gradients of the weights too, and of what comes before a layer."""
    training, dtype = case.direction == TRAINING, next(tower.parameters()).dtype
    if case.op == MODEL:
        given = inputs | {"hidden_states": inputs["hidden_states"].to(dtype)}
        return partial(
            results_of, lambda: tower(**given).last_hidden_state, tuple(tower.parameters()), training
        )
    layer, dim = tower.blocks[0].attn, case.dim
    bounds = torch.tensor([0, *accumulate(case.windows())], dtype=torch.int32)
    angles = torch.arange(case.patches, dtype=dtype)[:, None].expand(-1, dim // case.heads)
    arguments = {"cu_seqlens": bounds, "position_embeddings": (angles.cos(), angles.sin())}
    arguments["max_seqlen"] = max(case.windows())
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(case.patches, dim if case.op != ATTENTION else 3 * dim, generator=generator).to(dtype)
    x.requires_grad_(training)
    if case.op == ATTENTION:
        layer.qkv, layer.proj = _Given(x), nn.Identity()
        hidden = x.detach()[:, :dim]
        return partial(results_of, lambda: layer(hidden, **arguments), (x,), training)
    return partial(results_of, lambda: layer(x, **arguments), (x, *layer.parameters()), training)
