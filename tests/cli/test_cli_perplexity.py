"""The command `lckernels perplexity`: its output, its figure and its errors."""

# ruff: noqa: E402
import copy
import json
import math
import re
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("sentencex")
pytest.importorskip("matplotlib")
pytest.importorskip("typer")

from helpers.cli import error_message, run, run_without
from helpers.tiny_bert import save_tiny_bert, tiny_text
from helpers.tiny_decoder import POSITIONS, eager_or_window, save_tiny_decoder
from tokenizers import processors

from bench.cases import book as book_case
from bench.cases import smollm2
from lckernels.hf.patch import api
from lckernels.long import loading
from lckernels.perplexity import score
from lckernels.perplexity.tokens import tokenize


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(api, "patched", eager_or_window)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_decoder(tmp_path_factory.mktemp("model")))


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "book.txt"
    path.write_text(tiny_text(6))
    return path


def scored_by_hand(model, book, **options):
    """The same text through the Python API."""
    tokens = tokenize(transformers.AutoTokenizer.from_pretrained(model), book.read_text())
    network = transformers.AutoModelForCausalLM.from_pretrained(model)
    return tokens, score(network, tokens.input_ids, given=tokens.given, bos="every", **options)


def test_figures(model, book):
    result = run("perplexity", book, "--model", model)
    assert result.exit_code == 0, result.stderr
    tokens, expected = scored_by_hand(model, book)
    total = len(book.read_bytes()) + 1
    head, perplexity, speed = result.stdout.splitlines()
    assert head == (
        f"{total} tokens, {total - 1} scored (context 64, stride 32, <s> in every context), "
        "the model's own attention, float32"
    )
    bits = expected.bits_per_byte(tokens.num_bytes)
    assert perplexity == f"perplexity {expected.perplexity:,.4f}, {bits:.4f} bits per byte"
    assert re.fullmatch(r"read in [\d.]+ s, [\d,]+ tokens/s", speed)
    assert result.stderr == f"reading {total} tokens, 64 at a time, 32 apart\n"


def test_json_has_the_same_figures(model, book):
    options = ("--context", 20, "--stride", 5, "--window", 4, "--max-tokens", 50, "--dtype", "bfloat16")
    result = run("perplexity", book, "--model", model, *options, "--json", "--compare", "-q")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert {
        name: found[name] for name in ("context", "stride", "window", "sink_tokens", "tokens", "scored")
    } == {
        "context": 20,
        "stride": 5,
        "window": 4,
        "sink_tokens": None,
        "tokens": 51,
        "scored": 50,
    }
    assert found["dtype"] == "bfloat16"
    for figures in (found, found["stock"]):
        assert figures["tokens_per_second"] == pytest.approx(51 / figures["seconds"])
        assert figures["bits_per_byte"] == pytest.approx(math.log2(figures["perplexity"]))
    assert found["perplexity"] != found["stock"]["perplexity"]
    assert 0 < found["largest_logit_difference"] < 2 * found["largest_logit"]


def test_compare_prints_both(model, book):
    result = run("perplexity", book, "--model", model, "--compare")
    assert result.exit_code == 0, result.stderr
    found = re.findall(r"^(stock|lckernels) +perplexity ([\d.]+), [\d.]+ bits per byte$", result.stdout, re.M)
    assert [way for way, _ in found] == ["stock", "lckernels"]
    assert float(found[0][1]) == pytest.approx(float(found[1][1]), rel=1e-4)
    assert (
        len(re.findall(r"^(?:stock|lckernels) +read in [\d.]+ s, [\d,]+ tokens/s$", result.stdout, re.M)) == 2
    )
    far = re.search(r"^largest difference of a logit (\S+), of logits up to ([\d.]+)$", result.stdout, re.M)
    assert 0 < float(far[1]) < 1e-4 * float(far[2])


def test_the_difference_with_a_window_is_an_approximation_error(model, book):
    exact = run("perplexity", book, "--model", model, "--compare").stdout.splitlines()
    assert exact[-1] == "the patch is exact: the difference is rounding"
    *_, change, note = run(
        "perplexity", book, "--model", model, "--compare", "--window", 3
    ).stdout.splitlines()
    assert re.fullmatch(r"the window changes a logit by up to [\d.e+-]+, of logits up to [\d.]+", change)
    assert note == "this is the approximation error of a window of 3 tokens, not a rounding error"
    for options, is_exact in (((), True), (("--window", 3), False)):
        found = json.loads(run("perplexity", book, "--model", model, "--compare", "--json", *options).stdout)
        assert found["exact"] is is_exact


@pytest.mark.parametrize(("window", "exact"), [(20, True), (999, True), (19, False)])
def test_a_window_that_narrows_no_context_is_exact(model, book, window, exact):
    options = ("perplexity", book, "--model", model, "--compare", "--context", 20, "--window", window)
    note = run(*options).stdout.splitlines()[-1]
    assert (note == "no context is longer than the window: the difference is rounding") is exact
    assert json.loads(run(*options, "--json").stdout)["exact"] is exact


@pytest.mark.parametrize("options", [(), ("--compare", "--window", 3)])
def test_the_picture(model, book, tmp_path, options):
    result = run("perplexity", book, "--model", model, "--plot", "p.svg", *options)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.endswith("picture: p.svg\n")
    drawn = (tmp_path / "p.svg").read_text()
    assert "<svg" in drawn and len(drawn) > 10_000


def test_a_text_of_two_tokens(model, book):
    book.write_text("ab")
    result = run("perplexity", book, "--model", model, "--plot", "p.png")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("3 tokens, 2 scored ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--context", POSITIONS + 1), f"--context: got 65; MistralForCausalLM has {POSITIONS} positions"),
        (("--context", 1), "--context: got 1; expected at least 2"),
        (("--context", 8, "--stride", 9), "--stride: got 9; expected 1 <= stride <= context = 8"),
        (("--stride", 99), "--stride: got 99; expected 1 <= stride <= context = 64"),
        (("--stride", 0), "--stride: got 0; expected 1 <= stride"),
        (("--window", 0), "--window: got 0; expected an int >= 1"),
        (("--window", -3), "--window: got -3; expected an int >= 1"),
        (("--sink-tokens", 4), "--sink-tokens: got 4; sink tokens require a window; --window is not given\n"),
        (("--window", 4, "--sink-tokens", -1), "--sink-tokens: got -1; expected an int >= 0"),
        (("--max-tokens", 1), "--max-tokens: got 1; expected at least 2"),
        (("--plot", "no/p.png"), "the folder no for p.png does not exist"),
        (("--plot", "p.bmp"), "the picture p.bmp must end in one of .png, .svg, .pdf, .jpg"),
        (("--model", "./none"), "the model folder ./none does not exist"),
        (("--gguf-file", "no.gguf"), "has no file no.gguf"),
        (("--gguf-file", "broken.gguf"), "cannot be loaded: "),
        (("--threads", 10**6), "--threads is 1000000; this machine takes up to"),
    ],
)
def test_options_that_do_not_fit(model, book, options, message):
    Path(model, "broken.gguf").write_bytes(b"GGUF" + bytes(60))
    assert message in error_message("perplexity", book, "--model", model, "-q", *options)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "missing.txt does not exist"),
        ("empty.txt", b"", "empty.txt is an empty text"),
        ("latin.txt", b"caf\xe9 river", "latin.txt is not a text file in UTF-8: byte 3 is 0xe9"),
        (".", None, ". is a folder, not a text file"),
    ],
)
def test_files_that_are_not_text(model, book, name, content, message):
    if content is not None:
        (book.parent / name).write_bytes(content)
    assert message in error_message("perplexity", name, "--model", model, "-q")


def test_a_text_of_one_token(tmp_path, book):
    book.write_text("a")
    model = save_tiny_decoder(tmp_path / "model", bos=False)
    assert "the text is one token; at least two are needed" in error_message(
        "perplexity", book, "--model", model, "-q"
    )


def test_models_that_predict_nothing(tmp_path, book):
    bert = save_tiny_bert(tmp_path / "bert")
    assert "is an encoder, BertModel; expected a decoder\n" in error_message(
        "perplexity", book, "--model", bert, "-q"
    )
    folder = save_tiny_decoder(tmp_path / "t5")
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 260}
    transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)).save_pretrained(folder)
    assert "cannot be loaded: Unrecognized configuration class" in error_message(
        "perplexity", book, "--model", folder, "-q"
    )
    masked = tmp_path / "masked"
    save_tiny_decoder(masked)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=260, initializer_range=0.3, **sizes)
    transformers.BertForMaskedLM(config).save_pretrained(masked)
    assert "model: got BertLMHeadModel, which sees the tokens that it is to predict" in error_message(
        "perplexity", book, "--model", masked, "-q"
    )


def test_an_error_of_patched_is_one_sentence(model, book, monkeypatch):
    def refuses(*_, **__):
        raise ValueError("model: nothing in it can be patched")

    monkeypatch.setattr(api, "patched", refuses)
    message = error_message("perplexity", book, "--model", model, "-q")
    assert message == "lckernels: model: nothing in it can be patched\n"


def test_a_fault_of_ours_is_not_called_bad_input(model, book, monkeypatch):
    monkeypatch.setattr(api, "patched", lambda *_, **__: int("x"))
    result = run("perplexity", book, "--model", model, "-q")
    assert isinstance(result.exception, ValueError)


@pytest.mark.parametrize(
    ("hidden", "extra", "options"),
    [
        ("transformers", "hf", ()),
        ("matplotlib", "cli", ("--plot", "p.png")),
        ("gguf", "gguf", ("--gguf-file", "x.gguf")),
        ("accelerate", "gguf", ("--gguf-file", "x.gguf")),
    ],
)
def test_a_missing_extra_is_named(model, book, hidden, extra, options):
    result = run_without([hidden], "perplexity", book, "--model", model, *options)
    assert result.returncode == 2
    sentence = f"lckernels: this needs {hidden}, which is not installed: pip install 'lckernels[{extra}]'\n"
    assert result.stderr == sentence


def test_help_lists_options_and_defaults():
    result = run("perplexity", "--help")
    assert result.exit_code == 0
    help_text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.stdout).split())
    for option in (
        "--gguf-file",
        "--window",
        "--sink-tokens",
        "--context",
        "--stride",
        "--max-tokens",
        "--compare",
    ):
        assert option in help_text
    assert "[default: (half the context)]" in help_text


def test_a_gguf_file(book, smollm2_loaded, monkeypatch):
    asked = []
    monkeypatch.setattr(loading, "load", lambda *args: asked.append(args) or smollm2_loaded)
    folder = str(smollm2.folder())
    book.write_text("The capital of France is Paris, and the capital of Italy is Rome.")
    options = ("--model", folder, "--gguf-file", smollm2.FILE, "--threads", torch.get_num_threads())
    result = run("perplexity", book, *options, "--json", "-q")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert asked == [(folder, torch.float32, "AutoModelForCausalLM", smollm2.FILE)]
    found = json.loads(result.stdout)
    assert found["tokens"] == 15
    assert 2 < found["perplexity"] < 20


def test_special_tokens_in_every_context_with_a_real_tokenizer(smollm2_loaded):
    """SmolLM2 was trained on texts behind <|endoftext|>, which its own tokenizer does not add."""
    _, decoder, _ = smollm2_loaded
    tokenizer = copy.deepcopy(smollm2_loaded[0])
    template = [("<|endoftext|>", tokenizer.convert_tokens_to_ids("<|endoftext|>"))]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=template
    )
    with open(book_case.PATH, encoding="utf-8") as file:
        tokens = tokenize(tokenizer, file.read()[200_000:], 400)
    assert tokens.given == 1
    options = {"context": 64, "stride": 32, "given": tokens.given}
    every, first = (score(decoder, tokens.input_ids, bos=bos, **options) for bos in ("every", "first"))
    assert every.num_scored == first.num_scored == 400
    assert every.perplexity < 0.998 * first.perplexity
