"""Longformer on lckernels.patch against transformers' own: the attention of a layer, and the whole model."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from bench.cases.longformer import ATTENTION, TRAINING, LongformerCase
from bench.harness.comparison import Budget, Subject, chosen_backend
from bench.harness.report.longformer_goals import SUITE
from bench.harness.rows import Row
from bench.suites.patched import Call, patched_rows, results_of


def longformer_rows(case: LongformerCase, budget: Budget, log: Callable[[str], None] = print) -> list[Row]:
    """The rows of `patched_rows`."""
    model, inputs = case.build()
    q = torch.empty(1, case.seqlen, case.heads, case.dim // case.heads)
    subject = Subject(
        suite=SUITE, op=case.op, direction=case.direction, shape=case.shape(), dtype="float32",
        work=case.flops(), unit="GFLOP/s", backend=chosen_backend("windowed_attention", q, q, q),
    )  # fmt: skip
    return patched_rows(subject, case.label, model, partial(_call, case, inputs), budget, log)


def _call(case: LongformerCase, inputs: dict[str, Tensor], model: nn.Module) -> Call:
    """() -> the states; in training the gradients of the weights too, and of the states before a layer."""
    training = case.direction == TRAINING
    if case.op != ATTENTION:
        return partial(
            results_of, lambda: model(**inputs).last_hidden_state, tuple(model.parameters()), training
        )
    layer = model.encoder.layer[0].attention.self
    dtype = next(model.parameters()).dtype
    x = torch.randn(1, case.seqlen, case.dim, generator=torch.Generator().manual_seed(1)).to(dtype)
    mask = inputs["global_attention_mask"].to(dtype)
    masks = {"is_index_masked": mask < 0, "is_index_global_attn": mask > 0}
    masks |= {"attention_mask": mask, "is_global_attn": case.global_tokens > 0}
    x.requires_grad_(training)
    return partial(results_of, lambda: layer(x, **masks)[0], (x, *layer.parameters()), training)
