"""T5 and the models derived from it: a relative position bias by buckets of distances."""

from inspect import signature, unwrap
from typing import Any

from torch import Tensor, nn

from lckernels.hf import position_bias
from lckernels.hf.family import Family, own_method

_BIAS, _TABLE = "compute_bias", "relative_attention_bias"
_PARAMETERS = ("self", "query_length", "key_length", "device", "past_seen_tokens")


def _compute_bias(
    module: nn.Module, query_length: int, key_length: int, device: Any = None, past_seen_tokens: Any = 0
) -> Tensor | None:
    """The layer's bias by distance, from its own function for one query; None for a layer without one."""
    if _TABLE not in module._modules:
        return None
    own = own_method(module, _BIAS, _compute_bias)
    # From this distance on every key is in the last bucket.
    reach = module.relative_attention_max_distance
    values = own(module, 1, 2 * reach + 1, device=device, past_seen_tokens=reach)
    return position_bias.by_distance(values[0, :, 0])


def has_last_bucket(num_buckets: int, max_distance: int, bidirectional: bool) -> bool:
    """Whether all distances from max_distance on have one bucket; not if shorter ones fill the buckets."""
    return max_distance > num_buckets // (4 if bidirectional else 2)


def _has_own_bias(cls: type) -> bool:
    """Whether another package overrides the bias, which may then depend on more than the distance."""
    found = next(base for base in cls.__mro__ if _BIAS in vars(base))
    return not found.__module__.startswith("transformers.models.")


def _replacements(module: nn.Module) -> dict[str, Any]:
    if _has_own_bias(type(module)):
        return {}
    sizes = module.relative_attention_num_buckets, module.relative_attention_max_distance
    if _TABLE in module._modules and not has_last_bucket(*sizes, not module.is_decoder):
        return {}
    # Without a bias of its own a layer would create a dense one of zeros.
    return {_BIAS: _compute_bias, f"has_{_TABLE}": True}


def _bias_distance(module: nn.Module) -> int | None:
    """The distance at which the values of `_compute_bias` end."""
    return None if _has_own_bias(type(module)) else module.relative_attention_max_distance


def _is_member(cls: type) -> bool:
    """Whether a class is an attention that hands its dense bias to transformers' attention interface."""
    bias = getattr(cls, _BIAS, None)
    if bias is None or not issubclass(cls, nn.Module) or tuple(signature(bias).parameters) != _PARAMETERS:
        return False
    return "ALL_ATTENTION_FUNCTIONS" in unwrap(cls.forward).__code__.co_names


FAMILY = Family(name="t5", matches=_is_member, replacements=_replacements, bias_distance=_bias_distance)
