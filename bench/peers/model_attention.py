"""A whole model: its weights, a plain attention for its expected result, and no attention at all."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from bench.cases import book, smollm2
from bench.cases.models import ModelCase
from bench.harness.check import Tensors
from bench.peers.attention import is_visible

BLOCKS, NONE = "bench_blocks", "bench_none"
_BLOCK_SCORES = 2**24  # scores that the plain attention stores at a time


def build(case: ModelCase) -> tuple[nn.Module, Tensor]:
    """The model without its head, in evaluation mode, and its input ids (1, seqlen) int64.

    With real weights the ids are the book's: on random tokens the fp32 error is a hundred times that on text.

    Raises:
        ModuleNotFoundError: SmolLM2 is not installed.
    """
    import transformers

    if case.real:
        causal, tokenizer = smollm2.load(case.config().sliding_window, case.dtype)
        model = causal.base_model
        model.config.use_cache = False
        model.config.max_position_embeddings = max(case.seqlen, model.config.max_position_embeddings)
        return model, book.token_ids(tokenizer, case.seqlen)[None]
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(case.config(), dtype=case.dtype).eval()
    for name, weight in model.named_parameters():
        if name.endswith("sinks"):  # initialized near 0, where a missing sink hardly changes the result
            torch.nn.init.uniform_(weight, 0.5, 2.0)
    generator = torch.Generator().manual_seed(0)
    return model, torch.randint(1, model.config.vocab_size, (1, case.seqlen), generator=generator)


def with_attention(model: nn.Module, name: str) -> nn.Module:
    """A copy of the model that shares its weights, on the attention implementation `name`.

    Raises:
        ValueError: The model does not support it.
    """
    _register()
    copied = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    copied.set_attn_implementation(name)
    return copied


def in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in another dtype with its own weights; fp64 is supported too."""
    # Conversion changes weights in place, and these may be shared.
    converted = copy.deepcopy(model).to(dtype)
    if dtype == torch.float64 and converted._can_set_experts_implementation():
        converted.set_experts_implementation("eager")
    return converted


def run(model: nn.Module, ids: Tensor) -> Tensors:
    """(last_hidden_state,), without gradients."""
    with torch.inference_mode():
        return (model(input_ids=ids).last_hidden_state,)


def by_blocks(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The eager attention of transformers, a block of queries and their visible keys at a time."""
    reach = -1 if sliding_window is None else sliding_window - 1
    window_size = (reach, 0 if module.is_causal else reach)
    heads, seqlen = query.shape[1:3]
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    key, value = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (key, value))
    rows = max(16, min(512, _BLOCK_SCORES // (heads * (seqlen if reach < 0 else min(seqlen, reach + 512)))))
    outs, places = [], torch.arange(seqlen, device=query.device)
    for begin in range(0, seqlen, rows):
        end = min(begin + rows, seqlen)
        first = max(0, begin - reach) if reach >= 0 else 0
        last = min(seqlen, end + window_size[1]) if window_size[1] >= 0 else seqlen
        seen = is_visible(window_size, places[begin:end, None], places[first:last])
        scores = query[:, :, begin:end] @ key[:, :, first:last].transpose(2, 3) * scale
        scores = scores.masked_fill(~seen, -torch.inf)
        if s_aux is not None:
            sinks = s_aux.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, sinks], dim=-1)
        wide = torch.promote_types(scores.dtype, torch.float32)
        weights = torch.softmax(scores, dim=-1, dtype=wide).to(scores.dtype)
        outs.append(weights[..., : last - first] @ value[:, :, first:last])
    return torch.cat(outs, dim=2).transpose(1, 2).contiguous(), None


def left_out(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    """No attention: the result is each token's own value."""
    own = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    return own.transpose(1, 2).contiguous(), None


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    for name, function in ((BLOCKS, by_blocks), (NONE, left_out)):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, lambda *_, **__: None)
