"""A mask descriptor equals transformers' dense mask, and no N x N tensor is allocated for it."""

# ruff: noqa: E402
import itertools

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.hf_masks import REMAP, LargestTensor
from helpers.hf_patched import with_cache
from transformers import masking_utils as mu
from transformers.models.gemma3 import modeling_gemma3 as gemma3
from transformers.models.moonshine_streaming import modeling_moonshine_streaming as moonshine
from transformers.models.t5gemma2 import modeling_t5gemma2 as t5gemma2

from lckernels.hf import NAME
from lckernels.hf.masks.create import create_mask, key_mask
from lckernels.hf.masks.key_mask import KeyMask
from lckernels.hf.masks.readers import read_pattern

LEFT = torch.tensor([0, 3])
FUNCTIONS = {
    "causal": lambda: mu.causal_mask_function,
    "bidirectional": lambda: mu.bidirectional_mask_function,
    "sliding": lambda: mu.sliding_window_causal_mask_function(4),
    "sliding 1": lambda: mu.sliding_window_causal_mask_function(1),
    "bidirectional sliding": lambda: mu.sliding_window_bidirectional_mask_function(3),
    "chunked": lambda: mu.chunked_causal_mask_function(4, LEFT),
    "sliding overlay": lambda: mu.and_masks(mu.bidirectional_mask_function, mu.sliding_window_overlay(5)),
    "t5gemma2": lambda: mu.and_masks(
        mu.bidirectional_mask_function, t5gemma2.sliding_window_mask_function(5, is_causal=False)
    ),
    "t5gemma2 causal": lambda: t5gemma2.sliding_window_mask_function(5),
    "gemma3 encoder": lambda: mu.or_masks(
        mu.sliding_window_causal_mask_function(4), gemma3._bidirectional_window_overlay(4)
    ),
    "moonshine": lambda: moonshine.sliding_window_mask_function((4, 2)),
    "moonshine, none ahead": lambda: moonshine.sliding_window_mask_function((4, 0)),
}
# (q_length, kv_length, q_offset, kv_offset): no cache, decoding, prefill by chunks, sliding and static cache.
CALLS = [
    (11, 11, 0, 0),
    (1, 11, 10, 0),
    (4, 11, 7, 0),
    (1, 4, 10, 7),
    (3, 6, 8, 5),
    (4, 16, torch.tensor(5), 0),
    (1, 16, torch.tensor(9), 0),
]
PADDINGS = ("none", "left", "right", "middle", "a row of nothing")


def padding(kind, length):
    if kind == "none":
        return None
    valid = torch.ones(2, length, dtype=torch.bool)
    if kind == "middle":
        valid[1, length // 2 : length // 2 + 2] = False
    else:
        valid[1] = {
            "left": torch.arange(length) >= 3,
            "right": torch.arange(length) < length - 2,
            "a row of nothing": torch.zeros(length, dtype=torch.bool),
        }[kind]
    return valid


def transformers_mask(q_length, kv_length, q_offset, kv_offset, function, valid):
    return mu.sdpa_mask(
        2, q_length, kv_length, q_offset, kv_offset, function, valid, allow_is_causal_skip=False
    )


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("kind", PADDINGS)
def test_equals_the_mask_of_transformers(name, call, kind):
    q_length, kv_length, q_offset, kv_offset = call
    function = FUNCTIONS[name]()
    # As in generate: the 2-D mask does not cover cache slots that are not written yet.
    valid = padding(kind, int(q_offset) + q_length)
    mask = key_mask(2, q_length, kv_length, q_offset, kv_offset, function, valid)
    expected = transformers_mask(*call, function, valid)
    assert torch.equal(mask.dense(), expected.expand(2, 1, q_length, kv_length))
    assert isinstance(mask.visible.offset, torch.Tensor) == isinstance(q_offset, torch.Tensor)
    assert mask.untyped_storage().nbytes() == 0


FORMS = ["plain", "remapped"] if REMAP else ["plain"]  # 5.17 counts packed windows in slots


def packed(function, form):
    positions = torch.cat([torch.arange(5), torch.arange(3, 7), torch.arange(2)])[None].expand(2, -1)
    ids = mu.find_packed_sequence_indices(positions)
    if form == "remapped":
        function = REMAP(function, positions)
    return mu.and_masks(function, mu.packed_sequence_mask_function(ids))


@pytest.mark.parametrize("name", ["causal", "sliding", "sliding 1", "chunked"])
@pytest.mark.parametrize("form", FORMS)
def test_packed(name, form):
    function = packed(FUNCTIONS[name](), form)
    mask = key_mask(2, 11, 11, 0, 0, function)
    assert torch.equal(mask.dense(), transformers_mask(11, 11, 0, 0, function, None))


def unknown(batch, head, q, kv):
    return kv <= q + 1


def renamed(function):
    """As in a version of transformers with other names of variables."""

    def inner_mask(batch, head, q, kv):
        return function(batch, head, q, kv)

    inner_mask.__module__, inner_mask.__qualname__ = function.__module__, function.__qualname__
    return inner_mask


@pytest.mark.parametrize(
    "function",
    [
        unknown,
        mu.or_masks(mu.causal_mask_function, mu.blockwise_overlay(torch.zeros(2, 8, dtype=torch.long))),
        mu.and_masks(mu.causal_mask_function, unknown),
        *([REMAP(mu.causal_mask_function, torch.arange(8).expand(2, -1))] if REMAP else []),
        mu.sliding_window_overlay(torch.tensor(3)),
        mu.sliding_window_causal_mask_function(0),
        renamed(mu.sliding_window_overlay(4)),
    ],
)
def test_unknown_mask_functions_are_dense_with_a_warning(function):
    assert key_mask(2, 8, 8, mask_function=function) is None
    with pytest.warns(UserWarning, match="is not supported and runs as a dense mask"):
        mask = create_mask(2, 8, 8, mask_function=function, local_size=len(str(function)) + id(function))
    assert torch.equal(mask, transformers_mask(8, 8, 0, 0, function, None).expand(2, 1, 8, 8))


def test_a_closure_of_another_module_is_unknown():
    def sliding_window_overlay():
        def inner_mask(batch, head, q, kv):
            return kv > q

        return inner_mask

    inner = sliding_window_overlay()
    inner.__qualname__ = "sliding_window_overlay.<locals>.inner_mask"
    inner.__module__ = "mine.masking_utils"
    assert read_pattern(inner) is None


SLICES = [
    (slice(None), slice(None), slice(3, 7)),
    (slice(None), slice(None), slice(-1, None), slice(None)),
    (..., slice(2, None), slice(None, 9)),
    (slice(None), slice(None), slice(None), slice(2, 8)),
    (slice(0, 1),),
    (slice(None), 0),
    (..., torch.tensor([1, 3])),
]


@pytest.mark.parametrize("index", SLICES, ids=str)
@pytest.mark.parametrize("name", ["sliding", "chunked", "packed", "bidirectional"])
def test_slices(index, name):
    function = packed(FUNCTIONS["sliding"](), FORMS[-1]) if name == "packed" else FUNCTIONS[name]()
    valid = None if name == "packed" else padding("middle", 11)
    mask = key_mask(2, 11, 11, 0, 0, function, valid)
    part = mask[index]
    expected = mask.dense()[index]
    assert tuple(part.shape) == tuple(expected.shape)
    assert torch.equal(part.dense() if isinstance(part, KeyMask) else part, expected)
    if index in SLICES[:2]:
        assert isinstance(part, KeyMask)


def decoder(kind):
    common = {
        "vocab_size": 20, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0,
    }  # fmt: skip
    if kind == "encoder":
        config = transformers.ModernBertConfig(
            **common, local_attention=32, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2,
            global_attn_every_n_layers=2,
        )  # fmt: skip
        return transformers.ModernBertModel(config)
    if kind == "chunked":
        sizes = {"intermediate_size_mlp": 16, "num_local_experts": 1, "attention_chunk_size": 64}
        return transformers.Llama4TextModel(transformers.Llama4TextConfig(**{**common, **sizes}))
    window = {"causal": None, "sliding": 32}[kind]
    return transformers.MistralModel(transformers.MistralConfig(**common, sliding_window=window))


SIDES = ["none", "left", "right", "middle", "packed"]
KINDS = ["causal", "sliding", "chunked"]
CACHES = {"static": {"max_cache_len": 1024}, "dynamic": {}}


@pytest.mark.parametrize(
    ("kind", "side", "cache"),
    [(kind, side, "") for kind in (*KINDS, "encoder") for side in SIDES]
    + [(kind, side, cache) for kind in KINDS for side in ("none", "left") for cache in CACHES],
)
def test_no_tensor_of_n_by_n(kind, side, cache):
    """1024 tokens; the widest activation has 32 elements per token, a mask would have 1024."""
    model = decoder(kind).eval()
    ids, seqlen = torch.randint(3, 20, (1, 1024)), 1024
    inputs = {}
    if side == "packed":
        inputs["position_ids"] = torch.cat([torch.arange(500), torch.arange(seqlen - 500)])[None]
    elif side != "none":
        inputs["attention_mask"] = padding(side, seqlen)[1:].long()
    sizes = {}
    for name in ("eager", NAME):
        model.set_attn_implementation(name)
        options, pieces = {}, [slice(0, seqlen)]
        if cache:
            kept = getattr(transformers, f"{cache.title()}Cache")(config=model.config, **CACHES[cache])
            options, pieces = {**with_cache(model, kept), "use_cache": True}, [slice(512), slice(512, seqlen)]
        with torch.no_grad(), LargestTensor() as largest:
            for piece in pieces:
                part = {name: x[:, : piece.stop] for name, x in inputs.items()}
                model(ids[:, piece], **part, **options)
        sizes[name] = largest.elements
    assert sizes["eager"] >= seqlen * seqlen / (2 if cache else 1)
    assert sizes[NAME] <= 100 * seqlen


def test_windows_of_the_patterns():
    combined = itertools.chain(FUNCTIONS, [])
    windows = {name: read_pattern(FUNCTIONS[name]()).window for name in combined}
    assert windows["sliding"] == (3, 0)
    assert windows["bidirectional sliding"] == (3, 3)
    assert windows["t5gemma2"] == (2, 2)
    assert windows["gemma3 encoder"] == (3, 3)
    assert windows["moonshine, none ahead"] == (3, 0)
