"""bench.suites.overlap_error: pieces of the book, curves, and one small run."""

import json
import sys

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("sentencex")

from helpers.encoder_models import tiny, token_ids
from helpers.minilm import requires_minilm

from bench.suites import overlap_error
from lckernels import LongEncoder


def test_the_states_are_those_of_long_encoder():
    model = tiny()
    pieces = torch.stack([token_ids(32, seed) for seed in range(3)])
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(overlap_error, "PIECE", 32)
        for weights, states in overlap_error.merged_states(model, pieces, 12, 4).items():
            expected = LongEncoder(model, 12, 4, weights)(pieces).last_hidden_state.flatten(0, 1)
            torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)


@requires_minilm
def test_a_small_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(overlap_error, "EIGHTHS", (0, 4))
    monkeypatch.setattr(sys, "argv", ["overlap_error", "--pieces", "2", "--rows", str(tmp_path)])
    overlap_error.main()
    found = json.loads((tmp_path / "overlap_error.json").read_text())
    assert (found["pieces"], found["piece_len"]) == (2, 512)
    curves = found["curves"]
    assert [(line["chunk_len"], line["overlap"]) for line in curves] == [
        (128, 0), (128, 63), (256, 0), (256, 127),
    ]  # fmt: skip
    assert curves[0]["tokens_read_per_token"] == 128 / 126
    for without, half in (curves[:2], curves[2:]):
        assert 0 < half["error"]["triangular"] < without["error"]["triangular"]
    # Longer chunks help, and so do the triangular weights against those that cut.
    assert curves[2]["error"]["uniform"] < curves[0]["error"]["uniform"]
    assert curves[1]["error"]["triangular"] < curves[1]["error"]["crop"]
    assert (tmp_path / "overlap_error.png").read_bytes().startswith(b"\x89PNG")
    assert "'chunk_len': 256" in capsys.readouterr().out
