"""bench.suites.encoder: the comparison of two states of a book, and one small run."""

import json
import re
import sys

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("sentencex")

from helpers.minilm import requires_minilm

from bench.cases import minilm as minilm_case
from bench.harness.comparison import UNPACKED, Unsupported
from bench.harness.report import encoder_goals, goals, host_time_goals
from bench.peers.onnx_encoder import onnxruntime_bert
from bench.suites import encoder, encoder_profile, minilm
from bench.suites.one_chunk import OneChunkCase, one_chunk_rows
from lckernels.long.text_encoder import Tokens


def test_first_tokens_keep_the_special_ones():
    tokens = Tokens(torch.arange(12)[None], torch.arange(18).view(9, 2), leading=2)
    part = encoder.first_tokens(tokens, 4)
    assert part.input_ids.tolist() == [[0, 1, 2, 3, 4, 5, 11]]
    assert len(part.offsets) == 4
    assert encoder.first_tokens(tokens, 100).input_ids.tolist() == [list(range(12))]


def test_agreement_finds_where_states_differ(tmp_path):
    step = encoder.CHUNK_LEN - 2 - encoder.OVERLAP
    final = torch.randn(3 * step, 8)
    layer = final.clone()
    layer[::step] *= -1  # the first token of each chunk
    found = encoder.agreement(final, layer)
    between = torch.tensor(found["between_seams"])
    assert between[0] < 0.9
    torch.testing.assert_close(between[1:], torch.ones(encoder.BINS - 1))
    assert found["mean"] == pytest.approx(1 - 2 / step, abs=1e-6)
    assert found["tokens"] == 3 * step
    encoder.draw(found, tmp_path / "agreement.png")
    assert (tmp_path / "agreement.png").read_bytes().startswith(b"\x89PNG")


def test_one_chunk_against_the_model():
    ours, peer = one_chunk_rows(OneChunkCase(6, 32, labels=500), rounds=3)
    assert (ours.provider, peer.provider) == ("lckernels", "model")
    assert ours.timing.rounds == peer.timing.rounds == 3
    assert ours.ratios == {"model": peer.timing.median / ours.timing.median}
    assert ours.check.passed


def stored(suite, op, direction, dtype, shape, ratios):
    row = {"suite": suite, "provider": "lckernels", "op": op, "direction": direction, "dtype": dtype}
    return row | {"shape": shape, "ratios": ratios}


def measured(found, wanted):
    """Goal, dtype, worst, met of the lines that have a measurement."""
    lines = [line.strip("| ").split(" | ") for line in goals.table(found, wanted)[2:]]
    return [(line[0], line[1], line[3], line[6]) for line in lines if line[3] != "not measured"]


def test_goals_of_the_encoder():
    book, short = {"tokens": 9000, "chunk_len": 512}, {"tokens": 9000, "chunk_len": 128}
    found = [
        stored("encoder", "LongEncoder_final", "forward", "float32", book, {"torch_attention": 1.4}),
        stored("encoder", "LongEncoder_final", "forward", "bfloat16", book, {"torch_attention": 1.6}),
        stored("encoder", "LongEncoder_final", "forward", "float32", short, {"torch_attention": 9.0}),
        stored("encoder", "LongEncoder_layer", "forward", "float32", book, {"final": 0.1}),
    ]
    final = "MiniLM, chunks of 512, merged once, against sdpa"
    assert measured(found, encoder_goals.GOALS) == [
        (final, "float32", "1.40", "no"),
        (final, "bfloat16", "1.60", "yes"),
    ]


def test_goals_of_host_time():
    keys = {"batch": 1, "seqlen": 64, "heads": "8:8"}
    found = [
        stored("host_time", "windowed_attention", "decode", "float32", keys, {"sdpa": 0.5}),
        stored("host_time", "windowed_attention", "training", "float32", keys, {"sdpa": 0.1}),
        stored("host_time", "LongEncoder", "forward", "float32", {"tokens": 12, "dim": 64}, {"model": 0.8}),
        stored("host_time", "LongEncoder", "forward", "float32", {"tokens": 12, "dim": 384}, {"model": 1.0}),
        stored("host_time", "LongEncoder", "forward", "float32", {"tokens": 128, "dim": 64}, {"model": 0.5}),
    ]
    assert measured(found, host_time_goals.GOALS) == [
        ("one query over 64 keys: time / SDPA's", "float32", "2.00", "no"),
        ("LongEncoder, 12 tokens: time / its model's", "float32", "1.25", "no"),
    ]


def tiny_bert():
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 2}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=100, initializer_range=0.2, **sizes))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model.eval()


def test_onnxruntime_computes_a_bert():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model, ids = tiny_bert(), torch.randint(100, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = model(ids).last_hidden_state
        torch.testing.assert_close(onnxruntime_bert(model, 3, 20)(ids), want, rtol=1e-4, atol=1e-5)
    with pytest.raises(Unsupported, match="fp32"):
        onnxruntime_bert(model.bfloat16(), 3, 20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_rows_of_minilms_chunks(dtype):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    case = minilm.PagesCase(minilm.ROWS, dtype)
    ids = torch.randint(100, (1, case.tokens + 2), generator=torch.Generator().manual_seed(0))
    made = {row.provider: row for row in minilm.minilm_rows(case, tiny_bert(), ids, rounds=1)}
    peers = {UNPACKED, "torch_attention"} | ({"onnxruntime"} if dtype == torch.float32 else set())
    assert made.keys() == {"lckernels"} | peers and made["lckernels"].ratios.keys() == peers
    assert made["lckernels"].left_out.keys() == ({"onnxruntime"} - peers)
    assert re.fullmatch(r"has \d+ of 13 linear layers packed in \w+", made["lckernels"].note)
    assert {row.suite for row in made.values()} == {encoder_goals.SUITE}
    assert made["lckernels"].shape["chunk_len"] == encoder_goals.CHUNK_LEN


def test_the_profile_counts_each_operator_once():
    x = torch.ones(256, 256)
    found = encoder_profile.shares(lambda: [(x @ x).relu() for _ in range(3)])
    counts = {name: count for name, count, _ in found}
    assert counts["aten::mm"] == 3 and found[-1][0] == "all others"
    assert [ms for _, _, ms in found[:-1]] == sorted((ms for _, _, ms in found[:-1]), reverse=True)
    shown = encoder_profile.table([("aten::mm", 3, 30.0), ("all others", 9, 10.0)])
    assert shown[2:] == ["| aten::mm | 3 | 30 | 75.0 % |", "| all others | 9 | 10 | 25.0 % |"]


@requires_minilm
def test_pages_fill_their_chunks():
    case = minilm.PagesCase(3, torch.float32)
    model, tokenizer = minilm_case.load()
    ids = minilm_case.token_ids(tokenizer, case.tokens)
    assert ids.shape == (1, case.tokens + 2) and ids[0, [0, -1]].tolist() == [101, 102]
    plan = minilm_case.encoder(model).plan(ids.shape[1])
    assert (plan.num_chunks, plan.chunk_len) == (3, 512)


@requires_minilm
def test_a_small_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["encoder", "--tokens", "800", "--rounds", "1", "--rows", str(tmp_path)])
    encoder.main()
    lines = [json.loads(line) for line in (tmp_path / "encoder.jsonl").read_text().splitlines()]
    assert {(row["op"], row["provider"]) for row in lines} == {
        ("LongEncoder_final", "lckernels"),
        ("LongEncoder_final", "torch_attention"),
        ("LongEncoder_layer", "lckernels"),
        ("LongEncoder_layer", "final"),
        ("LongEncoder_layer", "torch_attention"),
    }
    found = json.loads((tmp_path / "encoder_agreement.json").read_text())
    assert 0.9 < found["mean"] < 0.9999
    assert len(found["search"]["shared"]) == len(encoder.QUESTIONS)
    assert (tmp_path / "encoder_agreement.png").exists()
    assert "cosine: mean 0.9" in capsys.readouterr().out
