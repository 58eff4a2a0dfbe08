"""bench.suites.quantized_search: pages of a text, found passages by hand, and small runs of both parts."""

import json
import sys

import pytest
import torch
from helpers.minilm import requires_minilm

pytest.importorskip("transformers")

from bench.suites import int8_layers, quantized_search
from lckernels.hf import int8

pytestmark = pytest.mark.skipif(bool(int8.missing()), reason=f"no int8 products: {int8.missing()}")


def test_pages_have_every_token_once(monkeypatch):
    monkeypatch.setattr(quantized_search, "PAGE_TOKENS", 4)
    parts = quantized_search.pages(torch.arange(12)[None])
    assert [part[0].tolist() for part in parts] == [[0, 1, 2, 3, 4, 11], [0, 5, 6, 7, 8, 11], [0, 9, 10, 11]]


@requires_minilm
def test_a_small_run(monkeypatch, capsys, tmp_path):
    options = ["--tokens", "700", "--threads", "1", "--cpu-time", "--rows", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["quantized_search", *options])
    quantized_search.main()
    lines = capsys.readouterr().out.splitlines()
    found = json.loads((tmp_path / "quantized_search.json").read_text())
    assert json.loads(lines[-1])["unit"] == "CPU seconds" == found["unit"]
    results = found["results"]
    assert list(results) == [
        "float32",
        "float32, packed",
        "bfloat16",
        "bfloat16, packed",
        "autocast",
        "quantize",
    ]
    assert len(lines) == 2 + len(results) + 1
    base = results["float32"]
    assert base["times_fp32"] == 1 and base["same_order"] == base["same_set"] == base["same_first"] == 10
    assert base["shared"] == 1 and base["cosine_min"] > 0.99999
    assert results["bfloat16"]["cosine_mean"] < results["autocast"]["cosine_mean"] < base["cosine_mean"]
    assert results["quantize"]["cosine_mean"] < results["bfloat16"]["cosine_mean"] < base["cosine_mean"]


def test_layers(monkeypatch):
    monkeypatch.setattr(int8_layers, "SHAPES", ((64, 32),))
    monkeypatch.setattr(int8_layers, "ROWS", (40,))
    ticks = iter(range(10_000))
    results = int8_layers.measure(lambda: next(ticks) / 1000)
    (found,) = results.values()
    assert {"float32", "bfloat16, packed", "quantize"} <= found.keys()
    assert found["float32"] == (pytest.approx(1), 0) and 0 < found["quantize"][1] < 0.02
    lines = int8_layers.table(results).splitlines()
    assert lines[0] == "|  | 64x32, 40 rows | error |" and lines[-1] == "| ms of float32 | 1.00 |  |"
