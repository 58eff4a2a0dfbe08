"""The command `lckernels explain`: what a patch would do, from a config alone."""

# ruff: noqa: E402
import itertools
import json

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("matplotlib")
pytest.importorskip("typer")

from helpers.cli import error_message, run
from helpers.hf_models import MODELS, REFUSED, make_config
from helpers.tiny_bert import POSITIONS, save_tiny_bert

from lckernels.cli.figures.explain import visible_share
from lckernels.hf.costs import pairs_of
from lckernels.hf.masks.kinds import Kind
from lckernels.options import Layout
from lckernels.reference import visible_keys

KINDS = [
    Kind((-1, 0)), Kind((-1, -1)), Kind((3, 0)), Kind((2, 2)), Kind((0, 0)),
    Kind((-1, 0), chunk=4), Kind((2, 0), 5),
]  # fmt: skip


def save(name, folder):
    model = MODELS[name] if name in MODELS else REFUSED[name][0]
    make_config(model.config, **model.sizes).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("sinks", [0, 2])
@pytest.mark.parametrize("seqlen", [1, 13])
def test_pairs_and_cells_are_those_of_the_op(kind, sinks, seqlen):
    sinks = 0 if kind.chunk else sinks
    layout = Layout(chunk=kind.chunk, sink_tokens=sinks)
    seen = visible_keys(torch.arange(seqlen)[None], seqlen, kind.window, layout)[0]
    assert pairs_of(kind, seqlen, sinks) == int(seen.sum())
    assert torch.equal(visible_share(kind, seqlen, sinks) > 0, seen)


def test_a_config_is_enough(tmp_path):
    model, picture = save("gpt_oss", tmp_path / "model"), tmp_path / "layers.png"
    result = run("explain", model, "--seqlen", "1000", "--plot", picture)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "GptOssModel: 2 of 2 attention layers on lckernels"
    assert "causal window  (5, 0)" in lines[2]
    full = 1000 * 1001 // 2
    pairs = sum(min(i + 1, 6) for i in range(1000)) + full
    share = 100 * pairs / (1e6 + full)  # sdpa has no mask where a token sees all before it
    assert f"{share:.1f} %" in result.stdout
    assert "masks       976.6 KiB under sdpa; patched 1 byte" in result.stdout
    assert "reach       all tokens before a token, 0 tokens behind it" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_window_bounds_the_reach(tmp_path):
    model = save("llama", tmp_path)
    result = run("explain", model, "--seqlen", "1000", "--window", "11")
    assert "reach       20 tokens before a token, 0 tokens behind it" in result.stdout
    assert "approximate: causal attention with a window" in result.stdout
    chunks = run("explain", save("llama4_text", tmp_path / "chunks"), "--seqlen", "100")
    assert "causal, chunks of 6" in chunks.stdout


@pytest.mark.parametrize("name", ["doge", "inkling", "deberta-v2"])
def test_models_that_patch_does_not_support(name, tmp_path):
    said = error_message("explain", save(name, tmp_path))
    assert "a patch would do nothing: " in said
    assert REFUSED[name][1] in said


def test_the_reach_of_one_token(tmp_path):
    result = run("explain", save("llama", tmp_path), "--seqlen", "1")
    assert "reach       all tokens before a token, 0 tokens behind it" in result.stdout


def test_what_is_left_may_reach_everywhere(tmp_path):
    result = run("explain", save("minimax", tmp_path), "--seqlen", "1000")
    assert "1 of 2 attention layers" in result.stdout
    assert "reach       all tokens before a token, all tokens behind it" in result.stdout


def test_a_text_within_the_window_needs_no_mask(tmp_path):
    result = run("explain", f"{save('mistral', tmp_path)}/config.json", "--seqlen", "6")
    assert "masks       0 bytes under sdpa" in result.stdout
    assert "100.0 %" in result.stdout


def test_what_is_known_at_the_first_call_only(tmp_path):
    said = error_message("explain", save("mimi", tmp_path), "--plot", tmp_path / "layers.png")
    assert "the attention of MimiModel is known at its first call only (RuntimeError: " in said


def test_a_name_that_is_no_folder(monkeypatch):
    def fails(name):
        raise OSError(f"no connection for {name}, from one of:\n(1) the hub")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fails)
    why = "no folder, so a name on the Hugging Face hub): no connection for nothing, from one of\n"
    said = error_message("explain", "nothing")
    assert said == f"lckernels: no model can be made of the config of nothing ({why}"


def test_bad_input(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert "no model can be made of the config of" in error_message("explain", str(tmp_path))
    assert "does not exist" in error_message("explain", "./nothing")
    model = save("llama", tmp_path / "llama")
    assert "--window: got 0; expected" in error_message("explain", model, "--window", "0")
    assert "--sink-tokens: got 2; sink tokens require a window; --window is not given\n" in error_message(
        "explain", model, "--sink-tokens", "2"
    )
    assert "must end in one of" in error_message("explain", model, "--plot", "layers.txt")


def test_kinds_of_all_models_have_words():
    assert len({str(kind) for kind in itertools.chain(KINDS, [Kind((-1, -1), cross=True)])}) >= 6


def test_fewer_positions_than_tokens(tmp_path):
    encoder = str(save_tiny_bert(tmp_path / "bert"))
    result = run("explain", encoder, "--seqlen", POSITIONS + 1)
    limit = "positions   BertModel has only 32, patched or not; lckernels.LongEncoder reads longer texts"
    assert f"{limit} in chunks of up to 32 tokens\n" in result.stdout
    assert "positions" not in run("explain", encoder, "--seqlen", POSITIONS).stdout
    decoder = save("llama", tmp_path / "llama")
    positions = transformers.AutoConfig.from_pretrained(decoder).max_position_embeddings
    long = run("explain", decoder, "--seqlen", positions + 1).stdout
    assert f"positions   LlamaModel has only {positions:,}, patched or not; the figures" in long
    assert "LongEncoder" not in long


def test_notes_on_the_config(tmp_path):
    make_config("Qwen2Config", use_sliding_window=True, layer_types=None).save_pretrained(tmp_path)
    lines = run("explain", tmp_path).stdout.splitlines()
    assert sum(line.startswith("note: config.sliding_window is 6 and no layer has") for line in lines) == 1
    stored = {**json.loads((tmp_path / "config.json").read_text()), "use_sliding_window": False}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    (note,) = json.loads(run("explain", tmp_path, "--json").stdout)["notes"]
    assert note == "config.sliding_window is None, config.json has 6: use_sliding_window is False"
    assert f"\nnote: {note}\n" in run("explain", tmp_path / "config.json").stdout


def test_json_of_explain(tmp_path):
    model = save("gpt_oss", tmp_path / "model")
    result = run("explain", model, "--seqlen", 1000, "--json", "--plot", tmp_path / "layers.svg")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [one["kind"] for one in found.pop("layers")] == ["causal window", "causal"]
    assert found.pop("picture") == str(tmp_path / "layers.svg")
    full, pairs = 1000 * 1001 // 2, sum(min(i + 1, 6) for i in range(1000))
    ratio = (pairs + full) / (1e6 + full)
    assert found.pop("flops_patched") / found.pop("flops") == pytest.approx(ratio)
    assert found == {
        "model": "GptOssModel",
        "seqlen": 1000,
        "window": None,
        "sink_tokens": None,
        "positions": 128,
        "fits": False,
        "exact": True,
        "notes": [],
        "mask_bytes": 1000**2,
        "mask_bytes_patched": 1,
        "reach_before": None,
        "reach_after": 0,
    }
    narrow = json.loads(run("explain", model, "--window", 4, "--sink-tokens", 2, "--json").stdout)
    assert (narrow["exact"], narrow["window"], narrow["sink_tokens"]) == (False, 4, 2)
    assert narrow["layers"][1]["window"] == [3, 0]
    assert narrow["layers"][1]["result"].startswith("approximate: ")
