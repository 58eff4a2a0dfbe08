"""Keyword arguments of flash-attn and torch, and what `windowed_attention` has in their place."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from typing import ParamSpec, TypeVar

from lckernels.options import Layout, Score

_P = ParamSpec("_P")
_R = TypeVar("_R")

_PACKED = "layout=Layout(cu_seqlens_q=..., cu_seqlens_k=...) with q[None], k[None], v[None]"
_MASK = "layout=Layout(kv_mask=...) for padding, Layout(segment_ids=...) for packed documents"
EQUIVALENTS: Mapping[str, str] = {
    **{field.name: f"layout=Layout({field.name}=...)" for field in fields(Layout)},
    **{field.name: f"score=Score({field.name}=...)" for field in fields(Score)},
    # flash-attn
    "causal": "window_size=(-1, 0), or (left, 0) with a sliding window",
    "alibi_slopes": "score=Score(rel_bias=slopes[:, None] * torch.arange(1 - N, 1), bias_center=N - 1)",
    "deterministic": "no argument: results are always deterministic",
    "return_attn_probs": "return_lse=True; the probabilities are never stored",
    "return_softmax_lse": "return_lse=True",
    "cu_seqlens_q": _PACKED,
    "cu_seqlens_k": _PACKED,
    "max_seqlen_q": _PACKED,
    "max_seqlen_k": _PACKED,
    "learnable_sink": "score=Score(sink_logits=...)",
    # torch.nn.functional.scaled_dot_product_attention and flex_attention
    "attn_mask": f"{_MASK}, score=Score(rel_bias=...) for a bias by distance",
    "is_causal": "window_size=(-1, 0); with fewer queries than keys also layout=Layout(offset=0), since SDPA "
    "aligns at the top left and the default here is the bottom right",
    "scale": "softmax_scale=...",
    "enable_gqa": "no argument: grouped heads need only num_heads % num_kv_heads == 0",
    "score_mod": "score=Score(softcap=..., rel_bias=...)",
    "block_mask": f"window_size=..., {_MASK}",
    # transformers
    "attention_mask": _MASK,
    "sliding_window": "window_size=(W - 1, 0)",
    "scaling": "softmax_scale=...",
    "dropout": "dropout_p=...",
    "s_aux": "score=Score(sink_logits=...)",
}


def with_equivalents(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, with a TypeError that names the equivalent of a keyword argument in EQUIVALENTS."""

    @wraps(function)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except TypeError:
            for name in kwargs:
                if name in EQUIVALENTS:
                    message = f"{function.__name__}: got the argument {name!r}; use {EQUIVALENTS[name]}"
                    raise TypeError(message) from None
            raise

    return wrapper
