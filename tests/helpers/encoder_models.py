"""Tiny encoders of each architecture, token ids, and LongEncoder's definition chunk by chunk."""

import math

import pytest
import torch

import lckernels

transformers = pytest.importorskip("transformers")

VOCAB, MAX_CONTENT = 60, 30
CLS, SEP, PAD = 3, 4, 1
SIZES = {"vocab_size": VOCAB, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": PAD}
WIDE = {"hidden_size": 16, "intermediate_size": 24}
# Class of the config and its sizes; each has 32 usable positions.
FAMILIES = {
    "bert": (transformers.BertConfig, {**WIDE, "max_position_embeddings": 32}),
    "electra": (transformers.ElectraConfig, {**WIDE, "embedding_size": 8, "max_position_embeddings": 32}),
    "distilbert": (
        transformers.DistilBertConfig,
        {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 32},
    ),
    "roberta": (transformers.RobertaConfig, {**WIDE, "max_position_embeddings": 34}),
    "xlm_roberta": (transformers.XLMRobertaConfig, {**WIDE, "max_position_embeddings": 34}),
    "mpnet": (transformers.MPNetConfig, {**WIDE, "max_position_embeddings": 34}),
}


def tiny(family="bert", seed=0):
    torch.manual_seed(seed)
    config_class, sizes = FAMILIES[family]
    sizes = {**SIZES, **sizes}
    if "roberta" in family or family == "mpnet":  # whose config has the ids of special tokens
        sizes |= {"bos_token_id": CLS, "eos_token_id": SEP}
    if family == "distilbert":
        sizes = {name: size for name, size in sizes.items() if not name.startswith("num_")}
    # With weights of std 0.2 context matters; with the default 0.02 a chunk's edge would have no effect.
    return transformers.AutoModel.from_config(config_class(**sizes, initializer_range=0.2)).eval()


def token_ids(length, seed=0):
    """`length` token ids, [CLS] first and [SEP] last."""
    generator = torch.Generator().manual_seed(1000 * seed + length)
    ids = torch.randint(5, VOCAB, (length,), generator=generator)
    ids[0], ids[-1] = CLS, SEP
    return ids


def pad(rows, side):
    """A batch of the rows of ids, and its attention mask."""
    seqlen = max(len(row) for row in rows)
    ids = torch.full((len(rows), seqlen), PAD)
    mask = torch.zeros(len(rows), seqlen, dtype=torch.long)
    for i, row in enumerate(rows):
        columns = slice(0, len(row)) if side == "right" else slice(seqlen - len(row), seqlen)
        ids[i, columns], mask[i, columns] = row, 1
    return ids, mask


def chunk_by_chunk(
    model, ids, chunk_len, overlap, weights="triangular", rule="sled", prefix=(), boundaries=None
):
    """States (seqlen, dim) of the sequence `ids` with one special token at each end, chunk by chunk."""
    content = ids[1:-1]
    prefix = torch.as_tensor(prefix, dtype=torch.long)
    leading = 1 + len(prefix)
    given = None if boundaries is None else [boundaries]
    plan = lckernels.plan_chunks(
        [len(content)], chunk_len, overlap, rule=rule, boundaries=given, num_leading=leading, num_trailing=1
    )
    total = weight_sum = None
    rows = plan.segments.tolist()
    for i, (_, _, start, length, keep_start, keep_end, *_) in enumerate(rows):
        row = torch.cat([ids[:1], prefix, content[start : start + length], ids[-1:]])
        state = model(input_ids=row[None]).last_hidden_state[0]
        u = torch.arange(length)
        left = u + 1 if i else torch.full_like(u, length)
        right = length - u if i < len(rows) - 1 else torch.full_like(u, length)
        m = torch.minimum(left, right).to(state.dtype)
        a = {
            "uniform": torch.ones_like(m),
            "triangular": m,
            "hann": torch.sin(math.pi * m / (2 * (length + 1))) ** 2,
            "crop": ((u >= keep_start) & (u < keep_end)).to(m),
        }[weights][:, None]
        if i == 0:
            total = state.new_zeros(len(content), state.shape[1])
            weight_sum = state.new_zeros(len(content), 1)
            first = state[:1]
        at = torch.arange(start, start + length)
        total = total.index_add(0, at, a * state[leading : leading + length])
        weight_sum = weight_sum.index_add(0, at, a)
        last = state[-1:]
    return torch.cat([first, total / weight_sum, last])


def assert_rows(output, mask, expected):
    for i, truth in enumerate(expected):
        torch.testing.assert_close(output[i][mask[i].bool()], truth, rtol=1e-5, atol=1e-5)
        assert (output[i][~mask[i].bool()] == 0).all()


def final(model, *args, **options):
    return lckernels.LongEncoder(model, *args, attention="model", **options)


def layer(model, *args, **options):
    return lckernels.LongEncoder(model, *args, merge="layer", **options)
