"""Names of transformers that are not in its documentation; a version may move or rename any of them.

| name | without it |
|---|---|
| `_active_collector` | `output_attentions=True` is seen where a layer receives it as an argument |
| `causal_mask_function`, `bidirectional_mask_function` | these masks are recognized by their names |
| `sdpa_attention_forward`, `sdpa_mask` | what the public interfaces have under "sdpa" is the same function |
| `_attn_implementation_internal` | `set_attn_implementation` has no effect on a patched model |
| `ACT2FN` | activations of transformers' own classes run after a packed linear layer, not in its product |
| `_prepare_cache_for_generation` | a cache rolls from its first forward on; assisted decoding raises |
| `layer_idx`, `layer_id` | a cache of a patched model keeps every key under a window |
| `LinearAttentionCacheLayerMixin` | a cache of layers with further states raises under a window |
| `is_kv_shared_layer` | a `DynamicCache()` of a model whose layers share keys raises under a window |
| `DummyLayer` | a cache of layers that share keys raises under a window |
| `DynamicSlidingWindowLayer` | the sliding cache of a layer with full attention raises under a window |
| `_prepare_4d_attention_mask_inverted` | a model that calls it makes its mask for every query, as unpatched |
| `is_flash_attention_requested`, `get_max_seqlen`, `get_vision_attention_seqlens` | a tower that loops over \
  windows makes a call of attention for each |
| `PreTrainedModel._can_set_attn_implementation` | only a dry run shows that no attention uses the interface |
"""

from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

try:
    from transformers.utils.output_capturing import _active_collector as active_collector
except ImportError:
    active_collector = None
try:
    from transformers.masking_utils import causal_mask_function
except ImportError:
    causal_mask_function = None
try:
    from transformers.masking_utils import bidirectional_mask_function
except ImportError:
    bidirectional_mask_function = None
try:
    from transformers.activations import ACT2FN as activations
except ImportError:
    activations = {}
try:
    from transformers.cache_utils import LinearAttentionCacheLayerMixin

    LAYERS_WITH_STATES = (LinearAttentionCacheLayerMixin,)
except ImportError:
    LAYERS_WITH_STATES = ()
try:
    from transformers.cache_utils import DummyLayer

    LAYERS_WITHOUT_KEYS = (DummyLayer,)
except ImportError:
    LAYERS_WITHOUT_KEYS = ()
try:
    from transformers.cache_utils import DynamicSlidingWindowLayer

    SLIDING_LAYER = (DynamicSlidingWindowLayer,)
except ImportError:
    SLIDING_LAYER = ()

CACHE_PLACES = ("layer_idx", "layer_id")  # attribute of an attention layer: its number in a cache
SHARES_KEYS = "is_kv_shared_layer"  # attribute of one that reads the keys of another layer
PREPARE_CACHE = "_prepare_cache_for_generation"  # method of a model that generates
INVERTED_MASK = "_prepare_4d_attention_mask_inverted"  # function in its module
READS_FLASH = "is_flash_attention_requested"  # of a config: whether its implementation's name has "flash"
READ_LONGEST = ("get_max_seqlen", "get_vision_attention_seqlens")  # the same, for the longest sequence
STORED_IMPLEMENTATION = "_attn_implementation_internal"  # field of a config
sdpa_attention_forward = AttentionInterface()["sdpa"]
sdpa_mask = AttentionMaskInterface()["sdpa"]


# () -> the names of the outputs that the running forward collects by hooks, or None. No function around it:
# one would cost a step of generation a microsecond per layer.
collected_outputs = (lambda: None) if active_collector is None else active_collector.get


def can_set_attention(model: PreTrainedModel) -> bool:
    """Whether the code of the model's class uses the attention interface, as far as is known."""
    check = getattr(model, "_can_set_attn_implementation", None)
    return check is None or check()
