"""The command `lckernels`: its output, its files and its errors."""

# ruff: noqa: E402
import os
import re
import subprocess
import sys

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("sentencex")
pytest.importorskip("matplotlib")
pytest.importorskip("typer")

from helpers.cli import error_message, run, run_without
from helpers.tiny_bert import POSITIONS, WORDS, tiny_text

import lckernels
from lckernels.search.saved_states import load_states


def test_search_prints_passages_figures_and_writes_the_picture(model, book, tmp_path):
    result = run("search", book, "silver harbour", "--model", model, "--top", 3, "--passage-tokens", 20)
    assert result.exit_code == 0, result.stderr
    found = re.findall(
        r"^ (\d)  score (-?\d\.\d{3})   ([\d.]+) % of the text, line (\d+), character ([\d,]+)$",
        result.stdout,
        re.M,
    )
    assert [int(rank) for rank, *_ in found] == [1, 2, 3]
    scores = [float(score) for _, score, *_ in found]
    assert scores == sorted(scores, reverse=True)
    content = book.read_text()
    for _, _, percent, line, character in found:
        at = int(character.replace(",", ""))
        assert f"    {content[at : content.index('.', at)]}" in result.stdout
        assert int(line) == content.count("\n", 0, at) + 1
        assert float(percent) == pytest.approx(100 * at / len(content), abs=0.05)
    num_tokens = len(transformers.AutoTokenizer.from_pretrained(model)(content)["input_ids"]) - 2
    assert re.search(
        rf"^{num_tokens} tokens in \d+ chunks of up to {POSITIONS} \(overlap 7, triangular\)$",
        result.stdout,
        re.M,
    )
    assert re.search(r"^encoded in [\d.]+ s, [\d,]+ tokens/s, float32$", result.stdout, re.M)
    assert result.stdout.endswith("picture: book.search.png\n")
    assert (tmp_path / "book.search.png").read_bytes().startswith(b"\x89PNG")


def test_scores_are_those_of_the_model(model, book):
    """A text of one chunk, against a direct call of the model."""
    book.write_text("Silver harbour river. Winter engine garden. Shadow window letter.")
    result = run("search", book, "silver river?", "--model", model, "--passage-tokens", 4, "--no-plot")
    assert result.exit_code == 0, result.stderr
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    network = transformers.AutoModel.from_pretrained(model).eval()
    with torch.no_grad():
        rows = network(**tokenizer(book.read_text(), return_tensors="pt")).last_hidden_state[0, 1:-1]
        question = network(**tokenizer("silver river?", return_tensors="pt")).last_hidden_state[0].mean(0)
    means = torch.stack([rows[0:4].mean(0), rows[4:8].mean(0), rows[8:12].mean(0)])
    expected = torch.cosine_similarity(means, question[None]).sort(descending=True).values
    scores = [float(score) for score in re.findall(r"score (-?[\d.]+)", result.stdout)]
    assert scores == pytest.approx(expected.tolist(), abs=6e-4)


def test_quiet_prints_passages_only(model, book, tmp_path):
    result = run("search", book, "river", "--model", model, "--top", 1, "--no-plot", "--quiet")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "tokens" not in result.stdout
    assert os.listdir(tmp_path) == ["book.txt"]


def test_more_passages_than_there_are(model, book):
    book.write_text("Silver river.")
    result = run("search", book, "river", "--model", model, "--top", 9, "--no-plot")
    assert "1 passage, 1 printed" in result.stdout
    assert "3 tokens in 1 chunk of up to 32 (" in result.stdout
    assert "reading 3 tokens in 1 chunk\n" in result.stderr


def test_kept_states_are_used_again_only_if_they_fit(model, book, tmp_path):
    search = (
        "search",
        book,
        "river",
        "--model",
        model,
        "--no-plot",
        "--keep",
        "--threads",
        torch.get_num_threads(),
    )
    first = run(*search)
    assert first.exit_code == 0, first.stderr
    kept = tmp_path / "book.txt.safetensors"
    assert f"states kept in {kept}" in first.stderr
    stamp = kept.stat().st_mtime_ns
    again = run(*search)
    assert "states taken from the file" in again.stdout
    assert kept.stat().st_mtime_ns == stamp
    assert again.stdout.split("\n\n")[0] == first.stdout.split("\n\n")[0]
    other = run(*search, "--overlap", 3)
    assert "does not fit and is made anew: overlap is 7, not 3\n" in other.stderr
    assert "encoded in" in other.stdout
    book.write_text(tiny_text(30))
    assert "text_sha256 is " in run(*search, "--overlap", 3).stderr
    assert kept.stat().st_mtime_ns != stamp


def test_merge_in_every_layer(model, book, tmp_path):
    search = ("search", book, "river", "--model", model, "--no-plot", "--keep")
    layer = run(*search, "--merge", "layer")
    assert layer.exit_code == 0, layer.stderr
    assert re.search(r"^reading [\d,]+ tokens in \d+ chunks, merged in every layer$", layer.stderr, re.M)
    assert "(overlap 7, triangular, merged in every layer)" in layer.stdout
    kept = load_states(tmp_path / "book.txt.safetensors")
    assert kept.metadata["merge"] == "layer"
    assert "states taken from the file" in run(*search, "--merge", "layer").stdout
    final = run(*search)
    assert "does not fit and is made anew: merge is layer, not final\n" in final.stderr
    states = load_states(tmp_path / "book.txt.safetensors").states
    assert states.shape == kept.states.shape
    cosine = torch.cosine_similarity(states, kept.states, dim=-1)
    assert 0.8 < cosine.mean() < 0.9999


def test_encode_writes_states_that_search_uses(model, book, tmp_path):
    target = tmp_path / "states.safetensors"
    options = (
        "--model",
        model,
        "--chunk-len",
        16,
        "--overlap",
        4,
        "--weights",
        "hann",
        "--dtype",
        "bfloat16",
    )
    result = run("encode", book, "-o", target, *options)
    assert result.exit_code == 0, result.stderr
    assert f"states: {target}, " in result.stdout
    found = load_states(target)
    assert found.states.dtype == torch.bfloat16
    assert found.states.shape == (len(found.offsets), 16)
    content = book.read_text()
    assert content[slice(*found.offsets[1])] in WORDS
    expected = {"model": model, "chunk_len": "16", "overlap": "4", "weights": "hann", "merge": "final"}
    assert (expected | {"boundaries": "sled"}).items() <= found.metadata.items()
    assert f"lckernels {lckernels.__version__}, torch " in found.metadata["versions"]
    result = run("search", book, "river", *options, "--states", target, "--no-plot")
    assert "states taken from the file" in result.stdout


def test_killed_encode_leaves_nothing(model, book, tmp_path):
    book.write_text(tiny_text(20000))
    target = tmp_path / "out" / "states.safetensors"
    target.parent.mkdir()
    command = [
        sys.executable,
        "-m",
        "lckernels.cli",
        "encode",
        str(book),
        "-o",
        str(target),
        "--model",
        model,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    chunk_len, remark = process.stderr.readline(), process.stderr.readline()
    process.terminate()
    process.stderr.close()
    assert process.wait(timeout=20) != 0
    assert chunk_len == b"chunk length 32 tokens, all positions of the model\n"
    assert re.fullmatch(rb"reading [\d,]+ tokens in [\d,]+ chunks\n", remark)
    assert os.listdir(target.parent) == []


def test_info():
    result = run("info")
    assert result.exit_code == 0
    for name in ("python", "lckernels", "torch", "triton", "transformers"):
        assert re.search(rf"^{name} +\S", result.stdout, re.M), name
    assert re.search(rf"^threads of torch +{torch.get_num_threads()} *$", result.stdout, re.M)
    assert "_C (CPU ops)" in result.stdout
    assert re.search(r"^windowed_attention on cpu, float32, .*: cpu$", result.stdout, re.M)
    assert "    not eager: it can, cpu comes before it\n" in result.stdout


@pytest.mark.parametrize(
    ("hidden", "extra"),
    [("typer", "cli"), ("rich", "cli"), ("matplotlib", "cli"), ("transformers", "hf"), ("sentencex", "hf")],
)
def test_a_missing_extra_is_named(model, book, hidden, extra):
    result = run_without([hidden], "search", book, "river", "--model", model)
    assert result.returncode == 2
    sentence = f"lckernels: this needs {hidden}, which is not installed: pip install 'lckernels[{extra}]'\n"
    assert result.stderr == sentence


def test_info_without_extras_and_compiled_parts():
    hidden = ["transformers", "safetensors", "sentencex", "matplotlib", "lckernels._host", "_C.so"]
    result = run_without(hidden, "info")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^_C \(CPU ops\) +not built", result.stdout, re.M)
    assert re.search(r"^_host \(planner, roofline\) +not built", result.stdout, re.M)
    assert re.search(r"^overlap_merge on cpu, .*: eager$", result.stdout, re.M)
    assert "    not cpu: lckernels/_C.so was not built" in result.stdout


def test_search_without_the_planner_fails_with_a_reason(model, book):
    result = run_without(["lckernels._host"], "search", book, "river", "--model", model)
    assert result.returncode == 2
    assert result.stderr.startswith(
        "lckernels: cutting a text into chunks needs lckernels' compiled extension"
    )
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "missing.txt does not exist"),
        ("empty.txt", b"", "empty.txt is an empty text"),
        ("blank.txt", b" \n\t\n", "blank.txt is an empty text"),
        ("latin.txt", b"caf\xe9 river", "latin.txt is not a text file in UTF-8: byte 3 is 0xe9"),
        ("paper.pdf", b"%PDF-1.7 river", "paper.pdf is a PDF; expected a text file"),
        ("binary", b"\x7fELF\x02\0\0", "binary is not a text file: byte 5 is NUL"),
        ("unseen.txt", b"\xe2\x80\x8b", "unseen.txt is an empty text to the tokenizer of "),
    ],
)
def test_files_that_are_not_text(model, book, name, content, message):
    if content is not None:
        (book.parent / name).write_bytes(content)
    for command in (("search", name, "river", "--no-plot"), ("encode", name, "-o", "states.safetensors")):
        assert message in error_message(*command, "--model", model, "-q")
    assert not (book.parent / "states.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--chunk-len", POSITIONS + 1), f"--chunk-len: got 33; BertModel has {POSITIONS} usable positions"),
        (("--chunk-len", 2), "--chunk-len: got 2; expected room for content"),
        (("--chunk-len", 0), "--chunk-len: got 0; expected room for content beside 1 + 1 special tokens\n"),
        (("--overlap", 30), "--overlap: got 30; expected 0 <= overlap < 30"),
        (("--overlap", -1), "--overlap: got -1; expected 0 <= overlap < 30"),
        (("--plot", "no/p.png"), "the folder no for p.png does not exist"),
        (("--plot", "p.png", "--no-plot"), "got --plot and --no-plot; expected one of the two"),
        (("--plot", "p.bmp"), "the picture p.bmp must end in one of .png, .svg, .pdf, .jpg"),
        (("--states", "no/s.safetensors"), "the folder no for s.safetensors does not exist"),
        (("--states", "book.txt"), "book.txt exists and is not a file of states"),
        (("--states", "."), ". is a folder, not a file for the states"),
        (("--model", "./none"), "the model folder ./none does not exist"),
        (("--model", "/a/b/c"), "the model folder /a/b/c does not exist"),
        (("--model", "."), "the model folder . cannot be loaded: "),
    ],
)
def test_options_that_do_not_fit(model, book, options, message):
    assert message in error_message("search", book, "river", "--model", model, *options)


def test_an_empty_question(model, book):
    assert "the question is empty" in error_message("search", book, " ", "--model", model)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--top", 0),
        ("--passage-tokens", 0),
        ("--weights", "round"),
        ("--merge", "first"),
        ("--dtype", "int8"),
        ("--threads", 0),
    ],
)
def test_values_outside_their_range(model, book, arguments):
    result = run("search", book, "river", "--model", model, *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr


def save_other(model, folder, network):
    network.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def test_models_without_encoder_states(model, book, tmp_path):
    gpt2 = transformers.GPT2Model(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=70))
    folder = save_other(model, tmp_path / "gpt2", gpt2)
    assert "model: got GPT2Model, a decoder" in error_message("search", book, "river", "--model", folder)
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 70}
    folder = save_other(model, tmp_path / "t5", transformers.T5Model(transformers.T5Config(**sizes)))
    assert "model: got T5Model, encoder and decoder" in error_message(
        "search", book, "river", "--model", folder
    )


def test_a_model_that_cannot_be_merged_in_every_layer(model, book, tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    mpnet = transformers.MPNetModel(transformers.MPNetConfig(vocab_size=70, **sizes))
    folder = save_other(model, tmp_path / "mpnet", mpnet)
    said = error_message("search", book, "river", "--model", folder, "--merge", "layer")
    assert "model: got MPNetModel, and the attention of MPNetModel does not go through" in said
    assert said.endswith("merge='layer' does not support it, merge='final' does\n")


def test_help_lists_options_and_defaults():
    result = run("search", "--help")
    assert result.exit_code == 0
    help_text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.stdout).split())
    for option in (
        "--chunk-len",
        "--overlap",
        "--weights",
        "--merge",
        "--passage-tokens",
        "--states",
        "--plot",
        "--threads",
    ):
        assert option in help_text
    assert "[default: 128]" in help_text
