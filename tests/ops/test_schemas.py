"""The schemas of torch.ops.lckernels.*, which exported graphs store: none may change."""

import dataclasses

import pytest
import torch

import lckernels  # noqa: F401, registers the ops
from lckernels.fields import FIELDS, flat_options, grouped_options
from lckernels.options import AttentionOptions, Layout, Score

SCHEMAS = (
    "lckernels::windowed_attention(Tensor q, Tensor k, Tensor v, SymInt[2] window_size, float "
    "softmax_scale, SymInt? offset, Tensor? offset_tensor, Tensor? kv_start, Tensor? kv_end, Tensor? "
    "kv_mask, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, SymInt? max_seqlen_q, SymInt? max_seqlen_k, "
    "Tensor? segment_ids, SymInt sink_tokens, SymInt chunk, SymInt chunk_origin, Tensor? "
    "chunk_origin_tensor, float softcap, Tensor? rel_bias, SymInt bias_center, Tensor? sink_logits, float "
    "dropout_p, Tensor? seed, str? backend) -> (Tensor out, Tensor lse)",
    "lckernels::windowed_attention_backward(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, "
    "Tensor out, Tensor lse, SymInt[2] window_size, float softmax_scale, SymInt? offset, Tensor? "
    "offset_tensor, Tensor? kv_start, Tensor? kv_end, Tensor? kv_mask, Tensor? cu_seqlens_q, Tensor? "
    "cu_seqlens_k, SymInt? max_seqlen_q, SymInt? max_seqlen_k, Tensor? segment_ids, SymInt sink_tokens, "
    "SymInt chunk, SymInt chunk_origin, Tensor? chunk_origin_tensor, float softcap, Tensor? rel_bias, "
    "SymInt bias_center, Tensor? sink_logits, float dropout_p, Tensor? seed, str? backend) -> (Tensor dq, "
    "Tensor dk, Tensor dv, Tensor drel_bias, Tensor dsink_logits)",
    "lckernels::chunked_attention(Tensor q, Tensor k, Tensor v, Tensor? extra_q, Tensor? extra_k, Tensor? "
    "extra_v, Tensor? weights, Tensor segments, Tensor tile_segments, SymInt num_chunks, SymInt "
    "chunk_len, str mode, float softmax_scale, str? backend) -> (Tensor out, Tensor extra_out)",
    "lckernels::chunked_attention_backward(Tensor dout, Tensor? dextra_out, Tensor q, Tensor k, Tensor v, "
    "Tensor? extra_q, Tensor? extra_k, Tensor? extra_v, Tensor? weights, Tensor segments, Tensor "
    "tile_segments, SymInt num_chunks, SymInt chunk_len, str mode, float softmax_scale, Tensor out, str? "
    "backend) -> (Tensor dq, Tensor dk, Tensor dv, Tensor dextra_q, Tensor dextra_k, Tensor dextra_v, "
    "Tensor dweights)",
    "lckernels::overlap_merge(Tensor chunks, Tensor? weights, Tensor segments, Tensor tile_segments, "
    "SymInt total_len, str mode, str? backend) -> Tensor",
    "lckernels::overlap_merge_backward(Tensor dout, Tensor? chunks, Tensor? weights, Tensor segments, "
    "Tensor tile_segments, SymInt num_chunks, SymInt chunk_len, str mode, str? backend) -> (Tensor, "
    "Tensor)",
    "lckernels::overlap_split(Tensor sequence, Tensor segments, Tensor tile_segments, SymInt num_chunks, "
    "SymInt chunk_len, str? backend) -> Tensor",
    "lckernels::overlap_split_backward(Tensor dchunks, Tensor segments, Tensor tile_segments, SymInt "
    "total_len, str? backend) -> Tensor",
    "lckernels::merge_attention_states(Tensor[] outs, Tensor[] lses, str? backend) -> (Tensor out, Tensor "
    "lse)",
    "lckernels::merge_attention_states_backward(Tensor? dout, Tensor? dlse, Tensor[] outs, Tensor[] lses, "
    "Tensor out, Tensor lse, str? backend) -> (Tensor[], Tensor[])",
)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.partition("(")[0])
def test_schema(schema):
    name = schema.partition("(")[0].removeprefix("lckernels::")
    assert str(getattr(torch.ops.lckernels, name).default._schema) == schema


def test_every_op_has_its_schema_here():
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("lckernels::")}
    listed = {schema.partition("(")[0] for schema in SCHEMAS}
    missing = sorted({name for name in registered if "::test_" not in name} - listed)
    assert not missing, f"add the schemas of {', '.join(missing)} to SCHEMAS in tests/ops/test_schemas.py"
    assert listed <= registered, "a schema in SCHEMAS belongs to no registered op"


def test_fields_cover_every_option():
    groups = {"layout": Layout, "score": Score}
    expected = {name for name in AttentionOptions._fields if name not in groups}
    for group, options in groups.items():
        expected |= {f"{group}.{field.name}" for field in dataclasses.fields(options)}
    assert {field.place for field in FIELDS} == expected


NUMBERS = {"offset": 3, "chunk_origin": 5}
TENSORS = {"offset": torch.tensor([7]), "chunk_origin": torch.tensor([9])}


@pytest.mark.parametrize("given", [{}, NUMBERS, TENSORS], ids=["default", "numbers", "tensors"])
def test_flat_options_are_grouped_again(given):
    layout = Layout(kv_start=torch.tensor([1]), sink_tokens=4, chunk=8, **given)
    score = Score(30.0, torch.ones(2, 5), 2, torch.ones(2))
    options = AttentionOptions((3, 0), 0.5, layout, score, 0.1, torch.ones(1, dtype=torch.int64))
    back = grouped_options(flat_options(options))
    assert (back.window_size, back.softmax_scale, back.dropout_p) == ((3, 0), 0.5, 0.1)
    assert back.seed is options.seed
    for group, expected in ((back.layout, layout), (back.score, score)):
        for field in dataclasses.fields(expected):
            assert getattr(group, field.name) is getattr(expected, field.name), field.name
